"""The adapters' own directions choose; nothing is trained."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from adapt.mixture.routers.choice import Scored

if TYPE_CHECKING:
    from adapt.mixture.gating.scored import Site, SiteRouter


class Arrow(Scored):
    """`softmax` over the k largest `|x . p_e|`, `p_e` the first right singular vector of adapter e's update.

    Ostapenko et al. 2024, arXiv 2405.11157.
    """

    learns: ClassVar[bool] = False
    shareable: ClassVar[bool] = False

    kind: Literal["arrow"] = "arrow"
    """By the direction that each adapter reacts to most, without training."""

    def build(self, site: Site) -> SiteRouter:
        """A gate computed from the adapters."""
        from adapt.mixture.gating.arrow import ArrowRouter

        return ArrowRouter(site, self.k, self.temperature)
