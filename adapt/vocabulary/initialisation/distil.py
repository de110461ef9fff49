"""`distil`: fit the new rows in the contexts in which their pieces occur, on top of any other method."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from adapt.settings import Count, Positive
from adapt.vocabulary.initialisation.auto import Auto
from adapt.vocabulary.initialisation.base import Initialisation, NewRows, Side, evidence_for
from adapt.vocabulary.initialisation.mean_of_pieces import MeanOfPieces
from adapt.vocabulary.initialisation.methods import METHODS
from adapt.vocabulary.initialisation.per_side import any_of

if TYPE_CHECKING:
    import torch

    from adapt.vocabulary.alignment import Snippet
    from adapt.vocabulary.evidence import Evidence

LEAST_STEPS = 200
AnyStart = any_of(*METHODS, Auto)
"""A method to start from: any but `distil` itself."""


class Distil(Initialisation):
    """Fit the rows so that the model reads a new piece as it read its parts, and predicts it where it occurs."""

    method: Literal["distil"] = "distil"
    """Fit the rows of any other method to the model's own states on text with the old pieces."""
    start: AnyStart = MeanOfPieces()
    """The initialisation from which the fit begins."""
    steps: Count | None = None
    """Updates of the rows. Not given: one for every five new pieces, but at least 200."""
    batch: Count = 8
    """Snippets of text in an update."""
    length: Count = 48
    """The most pieces in a snippet."""
    rate: Positive = 0.1
    """Learning rate at the first update, as a part of the old rows' root mean square; it falls linearly to 0."""
    minutes: Positive | None = None
    """Stop after so long, even before the last update. Then the rows depend on the machine's speed."""

    def rows(self, matrix: torch.Tensor, new: NewRows) -> torch.Tensor:
        """The rows of `start`."""
        return self.start.rows(matrix, new)

    def refine(self, sides: Mapping[Side, NewRows]) -> dict[str, Any]:
        """Fit the rows that `start` has made; see `adapt.vocabulary.initialisation.fitting`.

        Pieces that no text shows keep the rows of `start`, which is noted where it is all of them.
        """
        from adapt.vocabulary.initialisation.fitting import Fit, fit

        told = self.start.refine(sides)
        evidence = evidence_for(next(iter(sides.values())), "distil")
        found = self._snippets(evidence, next(iter(sides.values())))
        if not found:
            note = "no new piece occurs in the corpus, so distil had nothing to fit and the rows are those of its start"
            return told | {"notes": [*told.get("notes", ()), note]}
        pieces = len(next(iter(sides.values())).ids)
        plan = Fit(self.steps or max(LEAST_STEPS, pieces // 5), self.batch, self.rate, self.minutes)
        return told | {"distil": fit(evidence.model, sides, found, plan)}

    def files(self) -> Iterator[Path]:
        """The files of the method to start from."""
        return self.start.files()

    def _snippets(self, evidence: Evidence, new: NewRows) -> list[Snippet]:
        from adapt.evaluation.bits_per_byte import context_of, first_token
        from adapt.vocabulary.alignment import snippets

        parts = dict(zip(new.ids, new.pieces, strict=True))
        context = context_of(evidence.model.config) or 1024
        return list(snippets(evidence.new_ids, parts, first_token(evidence.new), self.length, context))
