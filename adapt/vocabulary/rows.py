"""Growing a model's input and output embedding: old rows stay bit for bit, new rows are initialised."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from adapt.errors import AdaptError
from adapt.vocabulary.initialisation.base import Initialisation, NewRows, Side
from adapt.vocabulary.initialisation.filling import fill, norms

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from adapt.vocabulary.evidence import Evidence


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
    evidence: Evidence | None = None,
) -> dict[str, Any]:
    """Give the model a row for each id, in place; returns the norms of old and new rows per side and what `init` told.

    `pieces[i]` are the old ids that `ids[i]` is made of. The matrices become as tall as the ids need, and never
    smaller; ids may fall on rows that stood there as padding, these are initialised like any other. Input and output
    rows each come from their own matrix; where both are one, from that one.
    """
    if not len(ids):
        return {}
    height = model.get_input_embeddings().weight.shape[0]
    tied = _tied(model)
    needed = max(height, max(ids) + 1)
    if needed > height:
        model.resize_token_embeddings(needed, mean_resizing=False)
    if _tied(model) != tied or model.get_input_embeddings().weight.shape[0] != needed:
        raise AdaptError(f"{type(model).__name__} did not take {needed} embedding rows (it has {height})")
    used: tuple[Side, ...] = ("input",) if tied else ("input", "output")
    sides = {side: NewRows(pieces, ordinary, side, seed, ids, tied, evidence, height) for side in used}
    fill(model, init, sides)
    bias = getattr(_head(model), "bias", None)
    if bias is not None:
        _fill_bias(bias, ids, pieces)
    told = init.refine(sides)
    return norms(model, sides) | told


def init_report(report: Mapping[str, Any]) -> dict[str, Any]:
    """What `grow` returned, apart: `norms` by side, `notes` to be said, and what else a method measured."""
    norms = {side: report[side] for side in ("tied", "input", "output") if side in report}
    more = {key: value for key, value in report.items() if key not in norms and key != "notes"}
    return {"norms": norms, "notes": list(report.get("notes", ())), "measured": more}


def _head(model: PreTrainedModel) -> Any:
    return model.get_output_embeddings()


def _tied(model: PreTrainedModel) -> bool:
    return _head(model).weight is model.get_input_embeddings().weight


def _fill_bias(bias: torch.nn.Parameter, ids: Sequence[int], pieces: Sequence[Sequence[int]]) -> None:
    """The bias of a new output row: the mean of its pieces' biases."""
    import torch

    with torch.no_grad():
        values = [bias[torch.tensor(list(piece))].float().mean() for piece in pieces]
        bias[torch.tensor(list(ids))] = torch.stack(values).to(bias.dtype)
