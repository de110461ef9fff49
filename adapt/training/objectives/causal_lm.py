"""Every token of plain text."""

from __future__ import annotations

from typing import ClassVar, Literal

from adapt.training.objectives.packed import Packed
from adapt.training.rows import HoldRows


class CausalLm(Packed):
    """Continued pre-training: `-sum_t log p(x_t | x_<t)` over every token of plain text."""

    hold: ClassVar[HoldRows] = "special"
    learns_answers: ClassVar[bool] = False

    kind: Literal["causal_lm"] = "causal_lm"
    """Every token of plain text."""
