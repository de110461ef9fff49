"""Growing a model's input and output embedding: old rows stay bit for bit, new rows are initialised."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from adapt.errors import AdaptError
from adapt.vocabulary.initialisation.base import Initialisation, NewRows, Side
from adapt.vocabulary.measures import row_norms

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


def ordinary_rows(tokenizer: PreTrainedTokenizerBase, height: int) -> torch.Tensor:
    """Rows of the base's trained pieces, `[n]`: without special and added tokens and rows that belong to no token."""
    import torch

    special = set(tokenizer.all_special_ids) | set(tokenizer.added_tokens_decoder)
    return torch.tensor(sorted(row for row in set(tokenizer.get_vocab().values()) - special if row < height))


def grow(
    model: PreTrainedModel,
    ids: Sequence[int],
    pieces: Sequence[Sequence[int]],
    ordinary: torch.Tensor,
    init: Initialisation,
    seed: int,
) -> dict[str, dict[str, float]]:
    """Give the model a row for each id, in place, and return the norms of old and new rows per side.

    `pieces[i]` are the old ids that `ids[i]` is made of. The matrices become as tall as the ids need, and never
    smaller; ids may fall on rows that stood there as padding, these are initialised like any other. Input and output
    rows each come from their own matrix; where both are one, from that one.
    """
    height = model.get_input_embeddings().weight.shape[0]
    tied = _tied(model)
    needed = max(height, max(ids) + 1) if ids else height
    if needed > height:
        model.resize_token_embeddings(needed, mean_resizing=False)
    if _tied(model) != tied or model.get_input_embeddings().weight.shape[0] != needed:
        raise AdaptError(f"{type(model).__name__} did not take {needed} embedding rows (it has {height})")
    report = {}
    sides: tuple[tuple[Side, Any], ...] = (("input", model.get_input_embeddings()), ("output", _head(model)))
    for side, module in sides[: 1 if tied else 2]:
        new = NewRows(pieces, ordinary, side, seed)
        report["tied" if tied else side] = _fill(
            module.weight, height, ids, init.rows(module.weight[:height], new), new
        )
    bias = getattr(_head(model), "bias", None)
    if bias is not None and len(ids):
        _fill_bias(bias, ids, pieces)
    return report


def _head(model: PreTrainedModel) -> Any:
    return model.get_output_embeddings()


def _tied(model: PreTrainedModel) -> bool:
    return _head(model).weight is model.get_input_embeddings().weight


def _fill(
    weight: torch.nn.Parameter, height: int, ids: Sequence[int], rows: torch.Tensor, new: NewRows
) -> dict[str, float]:
    import torch

    with torch.no_grad():
        report = row_norms(weight[new.ordinary], rows)
        weight[torch.tensor(list(ids), dtype=torch.long)] = rows.to(weight.dtype)
    return report


def _fill_bias(bias: torch.nn.Parameter, ids: Sequence[int], pieces: Sequence[Sequence[int]]) -> None:
    """The bias of a new output row: the mean of its pieces' biases."""
    import torch

    with torch.no_grad():
        values = [bias[torch.tensor(list(piece))].float().mean() for piece in pieces]
        bias[torch.tensor(list(ids))] = torch.stack(values).to(bias.dtype)
