"""The direction in which all hidden states of a model are alike: a head without a bias takes its bias from it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

POSITIONS = 4096
"""Hidden states that are looked at."""
_WINDOW = 256
_BATCH = 8
_OFF, _SPREAD = 0.25, 0.3
"""How far the mean of `h . m` may be from 1, and how large its standard deviation may be."""


@dataclass(frozen=True)
class ConstantDirection:
    """A vector m `[d]` with `h . m` near 1 for the hidden states h before the head; mean and spread of `h . m`."""

    vector: torch.Tensor
    mean: float
    std: float

    @property
    def is_constant(self) -> bool:
        """Whether `h . m` is near enough to 1 to stand for a bias."""
        return abs(self.mean - 1) <= _OFF and self.std <= _SPREAD


def constant_direction(hidden: torch.Tensor) -> ConstantDirection:
    """`m = (H^T H / n + l I)^-1 mean(H)`, `l = 1e-3 tr(H^T H / n) / d`, from hidden states H `[n, d]`, in float64.

    m minimises the mean of `(h . m - 1)^2` with a small penalty on its length.
    """
    import torch

    states = hidden.double()
    second = states.T @ states / len(states)
    ridge = 1e-3 * second.trace() / len(second) * torch.eye(len(second), dtype=second.dtype, device=second.device)
    vector = torch.linalg.solve(second + ridge, states.mean(dim=0))
    seen = states @ vector
    return ConstantDirection(vector.float(), float(seen.mean()), float(seen.std(correction=0)))


def hidden_states(
    model: PreTrainedModel, documents: Sequence[Sequence[int]], first: int, positions: int = POSITIONS
) -> torch.Tensor:
    """The states before the head on the beginning of some documents of ids, float32 `[n, d]`, n at most `positions`.

    The documents follow each other in full windows, each behind the token `first`; a state of the few places where a
    document begins inside a window counts like any other.
    """
    import torch

    from adapt.evaluation.bits_per_byte import context_of, evaluating

    size = min(_WINDOW, context_of(model.config) or _WINDOW)
    windows = list(_windows(documents, first, size, positions))
    found = []
    with evaluating(model), torch.no_grad():
        for start in range(0, len(windows), _BATCH):
            ids = torch.tensor(windows[start : start + _BATCH], device=model.device)
            found.append(model.base_model(input_ids=ids, use_cache=False).last_hidden_state.flatten(0, 1).float().cpu())
    return torch.cat(found)


def _windows(documents: Sequence[Sequence[int]], first: int, size: int, positions: int) -> Iterator[list[int]]:
    """Full windows of `size` ids until `positions` are reached; of too little text one shorter window."""
    line: list[int] = []
    made = 0
    for document in documents:
        line += [first, *document]
        while len(line) >= size:
            if made and made + size > positions:
                return
            yield line[:size]
            made, line = made + size, line[size:]
    if not made:
        yield line or [first]
