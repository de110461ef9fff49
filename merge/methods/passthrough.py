"""One model as it is, or scaled."""

from __future__ import annotations

import torch

from merge.methods.base import Block, Method, Parameter, Values


class Passthrough(Method):
    """`scale * x`: a copy, for models that are put together from layers of others, as in mergekit."""

    name = "passthrough"
    count = (1, 1)
    parameters = (Parameter("scale", "Factor of every element.", default=1.0, each=True),)

    def combine(self, block: Block, values: Values, summary: None) -> torch.Tensor:
        """The input times its scale."""
        return block.inputs[0].mul_(values["scale"][0])
