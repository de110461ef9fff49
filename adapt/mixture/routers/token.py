"""Every token chooses for itself."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from adapt.mixture.routers.choice import Scored
from adapt.settings import NonNegative

if TYPE_CHECKING:
    from adapt.mixture.gating.scored import Site, SiteRouter


class Token(Scored):
    """`softmax` over the k best of `W x` at each token; with k = 1 its value in the softmax over all.

    Xu et al. 2024, "MeteoRA", arXiv 2405.13053; Shazeer et al. 2017, arXiv 1701.06538.
    """

    kind: Literal["token"] = "token"
    """The k best of all adapters, at each token anew."""
    spread: NonNegative = 0.02
    """Standard deviation of the gates' weights at the start. (At 0 all scores tie, and the first k adapters win.)"""

    def build(self, site: Site) -> SiteRouter:
        """A linear gate."""
        from adapt.mixture.gating.linear import LinearRouter

        return LinearRouter(site, self.k, self.temperature, self.spread)
