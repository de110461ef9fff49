"""The last step of a change: old tokens go, ids close up, and the model's rows and settings follow."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from adapt.vocabulary.pruning import Unused, how_many, prunable, pruned, usage_of_pieces
from adapt.vocabulary.renumbering import check_kept_text, check_round_trip, closed_up
from adapt.vocabulary.row_order import arrange_rows, follow_ids, ids_in_use
from adapt.vocabulary.splice import core_of

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

    from adapt.vocabulary.revision import Revision


@dataclass(frozen=True)
class Settled:
    """A revision's final `tokenizer.json`; `order` is each id's former one, None where no id moved."""

    document: dict[str, Any]
    order: Sequence[int] | None
    new_ids: Sequence[int]
    warnings: Sequence[str]


def prune(revision: Revision, model: PreTrainedModel, amount: float | Unused, texts: Iterable[str]) -> Revision:
    """Give up old tokens that the texts use least; see `adapt.vocabulary.pruning.pruned`.

    Kept whatever the texts say: special and added tokens, bytes, the new tokens, and ids that the model's
    configuration names.
    """
    document = revision.document
    old = set(revision.base.get_vocab(with_added_tokens=True).values()) - revision.gone
    free = prunable(document, old, ids_in_use(model))
    counts = usage_of_pieces(document, texts)
    return revision.without(pruned(document, free, counts, how_many(amount, len(old)), amount == "unused"))


def settle(
    revision: Revision, model: PreTrainedModel, multiple: int | None, ordinary: torch.Tensor, texts: Sequence[str]
) -> Settled:
    """Take out what is gone, in place in the model; `multiple` is what the matrices' height must be a multiple of.

    Nothing is renumbered where nothing goes. The texts prove that what is kept is cut as before and that all text
    comes back. Raises AdaptError where it does not.
    """
    if not revision.gone:
        arrange_rows(model, None, multiple, ordinary)
        return Settled(revision.document, None, revision.ids, ())
    document, order = closed_up(revision.document, revision.gone)
    core = core_of(document)
    check_kept_text(core_of(revision.document), core, order, revision.gone, texts)
    check_round_trip(revision.base, core, texts)
    place = {former: index for index, former in enumerate(order)}
    arrange_rows(model, order, multiple, ordinary)
    warnings = follow_ids(model, place)
    return Settled(document, order, [place[index] for index in revision.ids], warnings)
