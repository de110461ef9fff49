"""All adapters weigh, at every token."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from adapt.mixture.routers.choice import RouterChoice
from adapt.settings import Positive

if TYPE_CHECKING:
    from adapt.mixture.gating.scored import Site, SiteRouter


class Dense(RouterChoice):
    """`softmax(W x / temperature)` over all adapters; all alike at the start (`W = 0`)."""

    kind: Literal["dense"] = "dense"
    """All adapters, weighed at each token anew."""
    temperature: Positive = 1.0
    """What scores are divided by before the softmax: below 1 sharper, above 1 more even."""

    def build(self, site: Site) -> SiteRouter:
        """A linear gate."""
        from adapt.mixture.gating.linear import LinearRouter

        return LinearRouter(site, None, self.temperature, 0.0)
