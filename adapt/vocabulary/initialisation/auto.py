"""`auto`: fill the rows by several methods, measure each before any training, keep the best."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field

from adapt.errors import AdaptError
from adapt.settings import NonNegative
from adapt.vocabulary.initialisation.base import Initialisation, NewRows, Side, evidence_for
from adapt.vocabulary.initialisation.last_first import LastFirst
from adapt.vocabulary.initialisation.mean import Mean
from adapt.vocabulary.initialisation.mean_of_pieces import MeanOfPieces, mean_of_pieces
from adapt.vocabulary.initialisation.methods import METHODS
from adapt.vocabulary.initialisation.per_side import any_of

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from adapt.vocabulary.evidence import Evidence

AnyCandidate = any_of(*METHODS)
"""A method that needs no choice of its own, or one for each side."""


@dataclass(frozen=True)
class Score:
    """A candidate, the bits per byte of the target and of general text right after it, and its rows by side."""

    label: str
    target: float
    general: float | None
    rows: Mapping[Side, torch.Tensor]
    told: Mapping[str, Any]


class Auto(Initialisation):
    """Try several initialisations, measure bits per byte on held-out text, keep the best for the target."""

    method: Literal["auto"] = "auto"
    """The best of several candidates by bits per byte on held-out text, before any training."""
    candidates: Annotated[tuple[AnyCandidate, ...], Field(min_length=1)] = (
        MeanOfPieces(),
        MeanOfPieces(weights="exponential"),
        LastFirst(),
        LastFirst(input="exponential"),
        LastFirst(prior=False),
        Mean(),
    )
    """What is tried, in this order; of equals the first is kept."""
    general_rise: NonNegative = 0.05
    """How many bits per byte the general text may rise over the model without new rows."""

    def rows(self, matrix: torch.Tensor, new: NewRows) -> torch.Tensor:
        """The means of pieces, until `refine` has compared the candidates."""
        return mean_of_pieces(matrix, new.pieces)

    def refine(self, sides: Mapping[Side, NewRows]) -> dict[str, Any]:
        """Fill, measure and compare; the best rows stay in the model. Raises AdaptError without held-out text."""
        from adapt.vocabulary.evidence import on_accelerator
        from adapt.vocabulary.initialisation.filling import write_rows

        evidence = evidence_for(next(iter(sides.values())), "auto")
        if not _target(evidence):
            raise AdaptError("init 'auto' compares its candidates on held-out text, but none is measured; set measure")
        with on_accelerator(evidence.model):
            before = _base_general(evidence, sides)
            scores: list[Score] = []
            for candidate in self.candidates:
                scores.append(_scored(candidate, evidence, sides, scores))
        best, notes = chosen(scores, before, self.general_rise)
        for side, rows in best.rows.items():
            write_rows(evidence.model, sides[side], rows)
        table = [{"init": score.label, "target": score.target, "general": score.general} for score in scores]
        notes = [*best.told.get("notes", ()), *notes]
        told = {"auto": {"chosen": best.label, "general_before": before, "scores": table}}
        return dict(best.told) | told | ({"notes": notes} if notes else {})

    def files(self) -> Iterator[Path]:
        """The files of all candidates."""
        return (path for candidate in self.candidates for path in candidate.files())


def chosen(scores: list[Score], before: float | None, rise: float) -> tuple[Score, list[str]]:
    """The lowest target among those whose general text rose by at most `rise`; where none did, the least rise.

    Returns the score, and what is to be said of the choice.
    """
    if before is None:
        return min(scores, key=lambda score: score.target), []
    general = [before if score.general is None else score.general for score in scores]
    allowed = [score for score, value in zip(scores, general, strict=True) if value - before <= rise]
    if allowed:
        return min(allowed, key=lambda score: score.target), []
    least = min(general)
    note = (
        f"auto: with every candidate general text rises by more than general_rise ({rise:g} bits per byte); "
        f"kept the one with the least rise, {least - before:.3f}"
    )
    return scores[general.index(least)], [note]


def _scored(
    candidate: Initialisation, evidence: Evidence, sides: Mapping[Side, NewRows], earlier: Sequence[Score]
) -> Score:
    """Fill the rows and measure; where an earlier candidate made the same rows, with its numbers."""
    import torch

    from adapt.vocabulary.initialisation.filling import fill, read_rows

    fill(evidence.model, candidate, sides)
    told = candidate.refine(sides)
    rows = {side: read_rows(evidence.model, new) for side, new in sides.items()}
    for score in earlier:
        if all(torch.equal(score.rows[side], rows[side]) for side in rows):
            return replace(score, label=candidate.label, told=told)
    target = _bits_per_byte(evidence.model, evidence.new, _target(evidence))
    general = _bits_per_byte(evidence.model, evidence.new, _general(evidence)) if _general(evidence) else None
    return Score(candidate.label, target, general, rows, told)


def _base_general(evidence: Evidence, sides: Mapping[Side, NewRows]) -> float | None:
    """Bits per byte of the general text as if the new rows were not there."""
    if not _general(evidence):
        return None
    with _silenced(evidence.model, next(iter(sides.values()))):
        return _bits_per_byte(evidence.model, evidence.old, _general(evidence))


@contextmanager
def _silenced(model: PreTrainedModel, new: NewRows) -> Iterator[None]:
    """The model with no probability on the new pieces."""
    import torch

    places = torch.tensor(list(new.ids), device=model.device)
    hook = model.get_output_embeddings().register_forward_hook(
        lambda module, inputs, logits: logits.index_fill(-1, places, float("-inf"))
    )
    try:
        yield
    finally:
        hook.remove()


def _target(evidence: Evidence) -> list[str]:
    return [text for name, texts in evidence.held_out.items() if name != evidence.general for text in texts]


def _general(evidence: Evidence) -> list[str]:
    return list(evidence.held_out.get(evidence.general or "", ()))


def _bits_per_byte(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, texts: list[str]) -> float:
    from adapt.evaluation.bits_per_byte import bits_per_byte

    return bits_per_byte(model, tokenizer, texts).value
