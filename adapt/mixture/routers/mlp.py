"""A small network weighs the adapters and the layer alone."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from adapt.mixture.routers.choice import RouterChoice
from adapt.settings import Count, Positive, Share

if TYPE_CHECKING:
    from adapt.mixture.gating.scored import Site, SiteRouter


class Mlp(RouterChoice):
    """`softmax` over the layer alone and all adapters of three linear layers on the mean of the document so far.

    Diao et al. 2023, "Mixture-of-Domain-Adapters", arXiv 2306.05406. Published is a gate that reads the last token of
    the whole sequence: in a decoder that tells every token of those after it. This one reads what was there before.
    What the layer alone weighs is no adapter's, so the adapters' weights sum to less than 1; all are alike at the
    start.
    """

    kind: Literal["mlp"] = "mlp"
    """By a small network, which may also choose no adapter."""
    hidden: Count = 64
    """Width of its hidden layers; published is 768, the width of the model."""
    dropout: Share = 0.2
    """Share of the hidden values that is dropped while training."""
    reads: Literal["document", "token"] = "document"
    """What it sees: the mean of the layer's inputs over the document so far, or the token's input alone."""
    span: Count | None = None
    """Only so many tokens at a document's beginning count, as a prompt would. Empty: all so far."""
    temperature: Positive = 1.0
    """What scores are divided by before the softmax: below 1 sharper, above 1 more even."""

    def build(self, site: Site) -> SiteRouter:
        """A gate with its network."""
        from adapt.mixture.gating.mlp import MlpRouter

        return MlpRouter(site, self)
