"""The ways to initialise new rows; a method of one side is a file and a line in `methods.METHODS`."""

from __future__ import annotations

from adapt.vocabulary.initialisation.auto import Auto
from adapt.vocabulary.initialisation.base import Initialisation, NewRows, Side
from adapt.vocabulary.initialisation.distil import Distil
from adapt.vocabulary.initialisation.methods import METHODS
from adapt.vocabulary.initialisation.per_side import PerSide, any_of

INITIALISATIONS = (*METHODS, Auto, Distil)

AnyInitialisation = any_of(*INITIALISATIONS)
"""An initialisation's settings, or just its name, or `input` and `output` with one each."""

__all__ = ["INITIALISATIONS", "METHODS", "AnyInitialisation", "Initialisation", "NewRows", "PerSide", "Side"]
