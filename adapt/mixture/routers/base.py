"""What a router is: from the input of a layer to the weights of the adapters beside it."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import nn

from adapt.mixture.gates import Gates
from adapt.mixture.routing import Routing


class Router(nn.Module, ABC):
    """A gate of one layer over `count` adapters.

    A router is causal: the gates at a token are a function of this and earlier tokens of the same document only. Its
    parameters and sums are in float32 whatever the model computes in.
    """

    count: int

    @abstractmethod
    def forward(self, inputs: torch.Tensor, routing: Routing) -> Gates:
        """Gates `[batch, length, ...]` for the layer's inputs `[batch, length, in]`."""
