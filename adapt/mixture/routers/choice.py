"""What the settings of a router have in common."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, ClassVar

from adapt.settings import Count, Positive, Settings

if TYPE_CHECKING:
    from adapt.mixture.gating.scored import Site, SiteRouter


class RouterChoice(Settings, ABC):
    """Base of all routers' settings. One file each; `adapt.mixture.routers.ROUTERS` is the table."""

    learns: ClassVar[bool] = True
    """Whether the gates have something that trains."""
    shareable: ClassVar[bool] = True
    """Whether several layers can share one gate."""

    @property
    def most(self) -> int:
        """The largest number of adapters at a token that the settings ask for; 0 where that is not bounded."""
        return getattr(self, "k", None) or 0

    @abstractmethod
    def build(self, site: Site) -> SiteRouter:
        """The gate of one place."""

    def conflicts(self, adapters: tuple[str, ...]) -> Iterator[str]:
        """What does not go together with these adapters."""
        if self.most > len(adapters):
            yield f"k is {self.most}, but there are {len(adapters)} adapters; set k to at most {len(adapters)}"

    def marks(self, known: Mapping[str, int]) -> dict[str, int]:
        """Tokens of the text that name a domain, and the adapters that they mean."""
        return {}


class Scored(RouterChoice):
    """What routers with scores have in common."""

    k: Count | None = 2
    """How many adapters weigh at a token: those with the highest scores. Empty: all."""
    temperature: Positive = 1.0
    """What scores are divided by before the softmax: below 1 sharper, above 1 more even."""
