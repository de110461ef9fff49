"""A document chooses: by the mean of what was read of it so far."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from adapt.mixture.routers.choice import Scored
from adapt.settings import Count

if TYPE_CHECKING:
    from adapt.mixture.gating.scored import Site, SiteRouter


class Sequence(Scored):
    """`softmax` of `W m_t`, `m_t` the mean of the layer's inputs over the document's tokens up to t.

    Published gates of sequences look at the whole of it, which tells a token of those after it; this one does not. All
    adapters weigh alike at the start (`W = 0`).
    """

    kind: Literal["sequence"] = "sequence"
    """By the document so far."""
    k: Count | None = None
    """How many adapters weigh at a token: those with the highest scores. Empty: all."""
    span: Count | None = None
    """Only so many tokens at a document's beginning count, so that the gate settles there. Empty: all so far."""

    def build(self, site: Site) -> SiteRouter:
        """A linear gate on a running mean."""
        from adapt.mixture.gating.running import RunningRouter

        return RunningRouter(site, self.k, self.temperature, self.span)
