"""The nearest of one key for each adapter chooses."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from adapt.mixture.routers.choice import Scored

if TYPE_CHECKING:
    from adapt.mixture.gating.scored import Site, SiteRouter


class NearestKey(Scored):
    """`softmax` over the k largest products of the standardised input with standardised keys.

    Muqeeth et al. 2024 (PHATGOOSE), arXiv 2402.05859.
    """

    kind: Literal["nearest_key"] = "nearest_key"
    """By the nearest key."""
    keys: Literal["mean", "learned"] = "mean"
    """What a key is: the mean input over the data of the adapter's domain, without training (`mean`), or learned with
    one adapter at a time, as `sigmoid(key . x)` before its update (`learned`)."""

    @property
    def learns(self) -> bool:  # type: ignore[override]
        """Whether keys train."""
        return self.keys == "learned"

    def build(self, site: Site) -> SiteRouter:
        """A gate with keys."""
        from adapt.mixture.gating.nearest import NearestRouter

        return NearestRouter(site, self.k, self.temperature, self.keys == "learned")
