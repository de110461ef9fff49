"""The ways to initialise new rows; adding one is a file and a line in the table."""

from __future__ import annotations

from typing import Annotated, Any, Union

from pydantic import BeforeValidator, Field

from adapt.vocabulary.initialisation.base import Initialisation, NewRows, Side
from adapt.vocabulary.initialisation.convex_hull import ConvexHull
from adapt.vocabulary.initialisation.mean_of_pieces import MeanOfPieces

INITIALISATIONS = (MeanOfPieces, ConvexHull)


def _from_name(value: Any) -> Any:
    return {"method": value} if isinstance(value, str) else value


AnyInitialisation = Annotated[
    Union[INITIALISATIONS],  # noqa: UP007 (a table, not a list of names)
    Field(discriminator="method"),
    BeforeValidator(_from_name),
]
"""An initialisation's settings, or just its name."""

__all__ = ["INITIALISATIONS", "AnyInitialisation", "Initialisation", "NewRows", "Side"]
