"""Writing new rows into a model's matrices, reading them, and trying them out."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from adapt.vocabulary.initialisation.base import Initialisation, NewRows, Side
from adapt.vocabulary.measures import row_norms

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel


def weight_of(model: PreTrainedModel, side: Side) -> torch.nn.Parameter:
    """The matrix of a side, `[V, d]`; both sides are one where they are tied."""
    module = model.get_input_embeddings() if side == "input" else model.get_output_embeddings()
    return module.weight


def fill(model: PreTrainedModel, init: Initialisation, sides: Mapping[Side, NewRows]) -> None:
    """Make the new rows of each side from its own old matrix and write them. No other row is touched."""
    for side, new in sides.items():
        matrix = weight_of(model, side).detach()[: new.height]
        write_rows(model, new, init.rows(matrix, new))


def norms(model: PreTrainedModel, sides: Mapping[Side, NewRows]) -> dict[str, dict[str, float]]:
    """Norms of old and new rows by side; a tied matrix stands under "tied"."""
    return {
        "tied" if new.tied else side: row_norms(weight_of(model, side).detach()[new.ordinary], read_rows(model, new))
        for side, new in sides.items()
    }


def write_rows(model: PreTrainedModel, new: NewRows, rows: torch.Tensor) -> None:
    """Put rows `[k, d]` where the new pieces of a side have theirs, in the matrix's own format."""
    import torch

    weight = weight_of(model, new.side)
    with torch.no_grad():
        weight[_places(new, weight)] = rows.to(weight)


def read_rows(model: PreTrainedModel, new: NewRows) -> torch.Tensor:
    """A copy of the new rows of a side, `[k, d]`, in the matrix's own format."""
    weight = weight_of(model, new.side)
    return weight.detach()[_places(new, weight)].clone()


def _places(new: NewRows, weight: torch.Tensor) -> Any:
    import torch

    return torch.tensor(list(new.ids), dtype=torch.long, device=weight.device)
