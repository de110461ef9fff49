"""What all gates of a model share in one forward pass: what is padding, where documents begin, what the data say."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch


@dataclass
class Routing:
    """The state of one forward pass. One object for a model and all its gates; filled anew before each pass.

    `valid [batch, length]` is False at padding. `starts [batch, length]` is True at the first token of a document, also
    within a packed row. `domains [batch, length]` holds the index of the adapter that the data name for a token, -1
    where they name none. `past` is the KV cache that the pass goes on from; a gate with a memory keeps it beside that.
    A field is None where the pass has no such thing. `observed` collects what gates report while `observing`.
    """

    valid: torch.Tensor | None = None
    starts: torch.Tensor | None = None
    domains: torch.Tensor | None = None
    past: Any = None
    observing: bool = False
    observed: list[Any] = field(default_factory=list)
