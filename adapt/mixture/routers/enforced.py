"""The data choose: a source's name, or a token of the text."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from adapt.mixture.routers.choice import RouterChoice

if TYPE_CHECKING:
    from adapt.mixture.gating.scored import Site, SiteRouter

BASE = "base"


class Enforced(RouterChoice):
    """Weight 1 for the adapter of a token's domain. The domain is the source's, or what a token before it names."""

    learns: ClassVar[bool] = False

    kind: Literal["enforced"] = "enforced"
    """The adapter that the data name."""
    default: str | None = None
    """The adapter of tokens whose domain nothing names; `base` for none. Empty: such a token is an error."""
    tokens: dict[str, str] = Field(default_factory=dict)
    """Tokens of the vocabulary that name the adapter of what follows them: `{"<|dates|>": dates}`."""

    def build(self, site: Site) -> SiteRouter:
        """A gate without parameters."""
        from adapt.mixture.gating.enforced import EnforcedRouter

        return EnforcedRouter(site, site.names.index(self.default) if self.default in site.names else -1)

    def conflicts(self, adapters: tuple[str, ...]) -> Iterator[str]:
        """Adapters that are none."""
        for name in (*self.tokens.values(), *([self.default] if self.default not in (None, BASE) else [])):
            if name not in adapters:
                yield f"there is no adapter '{name}'; the adapters are {', '.join(adapters)}"

    def marks(self, known: Mapping[str, int]) -> dict[str, int]:
        """The tokens and their adapters."""
        return {token: known[name] for token, name in self.tokens.items()}
