"""`{input: ..., output: ...}`: a method of its own for each of the two matrices."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Discriminator, Tag

from adapt.errors import AdaptError
from adapt.vocabulary.initialisation.base import Initialisation, NewRows, Side
from adapt.vocabulary.initialisation.methods import AnyMethod, one_of

if TYPE_CHECKING:
    import torch


class PerSide(Initialisation):
    """One method for the rows by which the model reads, another for the rows by which it predicts."""

    input: AnyMethod
    """How the rows of the input embedding begin: a name, or `method` with its settings."""
    output: AnyMethod
    """How the rows of the output embedding begin: a name, or `method` with its settings."""

    @property
    def method(self) -> str:
        """Both methods' names, input before output."""
        return f"{self.input.method} / {self.output.method}"

    @property
    def label(self) -> str:
        """Both methods with their settings, input before output."""
        return f"{self.input.label} / {self.output.label}"

    def rows(self, matrix: torch.Tensor, new: NewRows) -> torch.Tensor:
        """The rows of the side's own method. Raises AdaptError for a tied matrix, which has no two sides."""
        if new.tied:
            raise AdaptError(
                f"init: {{input: {self.input.method}, output: {self.output.method}}} cannot be done: "
                "the model's input and output embedding are one matrix; give one method, for example mean_of_pieces"
            )
        return self._of(new.side).rows(matrix, new)

    def refine(self, sides: Mapping[Side, NewRows]) -> dict[str, Any]:
        """What each method does for its own side."""
        found: dict[str, Any] = {}
        for side, new in sides.items():
            told = self._of(side).refine({side: new})
            notes = [*found.get("notes", ()), *told.get("notes", ())]
            found |= told | ({"notes": notes} if notes else {})
        return found

    def files(self) -> Iterator[Path]:
        """The files of both methods."""
        return chain(self.input.files(), self.output.files())

    def _of(self, side: Side) -> Initialisation:
        return self.input if side == "input" else self.output


def form(value: Any) -> str:
    """Which of the two forms a person wrote: `input` for a mapping of sides, else `method`."""
    if isinstance(value, PerSide):
        return "input"
    sides = isinstance(value, Mapping) and "method" not in value and ("input" in value or "output" in value)
    return "input" if sides else "method"


def any_of(*methods: type[Initialisation]) -> Any:
    """The annotation of a field that takes any of these methods, by name or with settings, or one for each side."""
    alternatives = Annotated[one_of(*methods), Tag("method")] | Annotated[PerSide, Tag("input")]
    return Annotated[alternatives, Discriminator(form)]
