"""What this machine has, what works on it, and what is missing for which part of a recipe.

Each finding says what was looked at, what is there and, where something is missing, what to do.
"""

from __future__ import annotations

from adapt.doctor.finding import Finding, State
from adapt.doctor.machine import machine
from adapt.doctor.needs import tried
from adapt.doctor.packages import extras, required

__all__ = ["Finding", "State", "examine"]


def examine() -> list[Finding]:
    """Everything, in the order in which it is shown. Nothing is downloaded; small calculations are really made."""
    return [*machine(), *required(), *extras(), *tried()]
