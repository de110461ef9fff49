"""The sampling loss: what adapters add to the layers on general text is to be nothing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch

from adapt.errors import AdaptError
from adapt.mixture.bottleneck import parallel_layers
from adapt.training.companion import Companion

if TYPE_CHECKING:
    from adapt.training.run import Run

_KEEP = "keep"


class SamplingLoss(Companion):
    """`weight * sum_layers mean_dims (FFN'(x) - FFN(x))^2` for each token of the general source, in place of its loss.

    Diao et al. 2023, arXiv 2306.05406, section 3.2. All tokens of an update, of the domain and general, share one
    divisor, so the shares of the mixture say how much each counts, and accumulation changes nothing.
    """

    name = "sampling"

    def __init__(self, model: Any, weight: float) -> None:
        self.routing, self.weight = model.adapt_routing, weight
        self.layers = tuple(parallel_layers(model).values())
        self.total, self.tokens = 0.0, 0

    def prepare(self, run: Run) -> None:
        """Let batches mark the tokens of the general source. Raises AdaptError where no source is general."""
        general, collate = run.general, run.collate
        if general is None:
            raise AdaptError("method domain_adapter needs a source of general text; name it with general, or keep: 0")

        def marked(rows: Sequence[Any]) -> dict[str, torch.Tensor]:
            batch = collate(rows)
            kept = torch.tensor([row["source"] == general for row in rows])
            # FlashAttention wants all rows as one
            spread = kept.repeat_interleave(batch["labels"].numel() // len(rows)).view_as(batch["labels"])
            return {**batch, _KEEP: spread & (batch["labels"] != -100)}

        run.collate = marked

    def batch(self, inputs: Mapping[str, Any]) -> Mapping[str, Any]:
        """Without labels at general tokens; the routing is told of these instead."""
        keep = inputs[_KEEP]
        self.routing.keep = keep.to(inputs["input_ids"].device)
        rest = {name: value for name, value in inputs.items() if name != _KEEP}
        return rest | {"labels": inputs["labels"].masked_fill(keep, -100)}

    def extra_loss(self) -> torch.Tensor | None:
        """The weighted sum over tokens and layers of the batch that has just gone through."""
        count = int(self.routing.keep.sum())  # kept as it is: activations may have to be computed again
        added = [layer.added for layer in self.layers if layer.added is not None]
        for layer in self.layers:
            layer.added = None
        if not count or not added:
            return None
        total = torch.stack([part.to(added[0].device) for part in added]).sum()
        self.total, self.tokens = self.total + float(total.detach()), self.tokens + count
        return self.weight * total

    def tensors(self) -> dict[str, torch.Tensor]:
        """The sums so far."""
        return {"sums": torch.tensor([self.total, self.tokens], dtype=torch.float64)}

    def restore(self, tensors: Mapping[str, torch.Tensor]) -> None:
        """Go on with these sums."""
        total, tokens = tensors["sums"].tolist()
        self.total, self.tokens = total, int(tokens)

    def numbers(self) -> dict[str, Any]:
        """The mean over the run's general tokens."""
        return {"mean": self.total / max(1, self.tokens), "tokens": self.tokens, "weight": self.weight}
