"""Half reset: a random part of a model's parameters put back to the base's."""

from __future__ import annotations

import torch

from merge.errors import MergeError
from merge.methods.base import Block, Blocks, Method, Parameter, Values

GRANULARITIES = ("matrix", "row", "element")


class HalfReset(Method):
    """`m base + (1 - m) model`, m ~ Bernoulli(ratio) drawn once for each tensor, each row or each element.

    The observation that half fine-tuning starts from: a fine-tuned model of which half of the parameters are reset to
    the pre-trained ones has most of the lost knowledge back and most of the new skill left. Hui et al., "HFT: Half
    Fine-Tuning for Large Language Models" (ACL 2025, arXiv 2404.18466). There a fixed number of each layer's matrices
    is reset (two of four in attention); here each is drawn for itself, so the share of a whole model only comes near
    `ratio`, within some 0.5 / sqrt(number of matrices). What is reset is the base's bit for bit, the rest the model's.
    """

    name = "half_reset"
    base = "required"
    arguments = ("models", "base")
    count = (1, 1)
    parameters = (
        Parameter("ratio", "Share of the parameters that is reset to the base's.", default=0.5, low=0, high=1),
        Parameter("granularity", "What is reset as one: a matrix, a row or an element.", default="matrix", kind=str),
    )
    random = True

    def check(self, values: Values) -> None:
        """An unknown granularity."""
        if values["granularity"] not in GRANULARITIES:
            known = ", ".join(GRANULARITIES)
            raise MergeError(f"{self.name}: granularity is '{values['granularity']}'; it is one of {known}")

    def summarise(self, blocks: Blocks, values: Values, shape: tuple[int, ...]) -> bool | None:
        """Whether the tensor is reset, None where that is not one decision."""
        if values["granularity"] != "matrix":
            return None
        return float(next(blocks()).uniform(0).view(-1)[0]) < values["ratio"]

    def combine(self, block: Block, values: Values, summary: bool | None) -> torch.Tensor:
        """The base's elements where it is reset, the model's elsewhere."""
        if summary is not None:
            return block.base if summary else block.inputs[0]
        drawn = block.uniform(0)
        if values["granularity"] == "row":
            drawn = drawn[:, :1]
        reset = (drawn < values["ratio"]).to(torch.int32).neg_()  # all bits set, or none
        own = block.inputs[0].view(torch.int32).bitwise_and_(~reset)
        return block.base.view(torch.int32).bitwise_and_(reset).bitwise_or_(own).view(torch.float32)
