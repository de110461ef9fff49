"""Errors that a user sees: one line that quotes the value, names the place and says the fix."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


class AdaptError(Exception):
    """A user's mistake or a failure of the world outside. Shown as one line, never with a traceback."""

    exit_code = 1


@dataclass(frozen=True, order=True)
class Problem:
    """One thing that is wrong in a recipe, with the place where it stands.

    `line` and `column` count from 1; 0 means that the value did not come from the file (`--set`).
    """

    file: str
    line: int
    column: int
    message: str

    def __str__(self) -> str:
        place = f"{self.file}:{self.line}:{self.column}" if self.line else self.file
        return f"{place}: {self.message}"


class RecipeError(AdaptError):
    """All problems of one recipe at once, in the order of the file."""

    exit_code = 2

    def __init__(self, problems: Sequence[Problem]) -> None:
        self.problems = tuple(sorted(problems))
        super().__init__("\n".join(str(problem) for problem in self.problems))
