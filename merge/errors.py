"""What can go wrong in a merge, as one line each."""

from __future__ import annotations


class MergeError(Exception):
    """Something that makes a merge impossible: an input that is broken or does not fit, an output in the way."""


class ExpressionError(MergeError):
    """A mistake in an expression, with the place where it stands (`position` counts characters from 0)."""

    def __init__(self, message: str, expression: str, position: int) -> None:
        self.expression, self.position = expression, position
        super().__init__(f"'{expression}', character {position + 1}: {message}")
