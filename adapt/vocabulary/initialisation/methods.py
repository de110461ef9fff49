"""The table of methods that make the rows of one side; adding one is a file and a line here."""

from __future__ import annotations

from typing import Annotated, Any, Union

from pydantic import BeforeValidator, Field

from adapt.vocabulary.initialisation.align import Align
from adapt.vocabulary.initialisation.base import Initialisation
from adapt.vocabulary.initialisation.convex_hull import ConvexHull
from adapt.vocabulary.initialisation.cw2v import Cw2v
from adapt.vocabulary.initialisation.focus import Focus
from adapt.vocabulary.initialisation.gaussian import Gaussian
from adapt.vocabulary.initialisation.last_first import LastFirst
from adapt.vocabulary.initialisation.mean import Mean
from adapt.vocabulary.initialisation.mean_of_pieces import MeanOfPieces
from adapt.vocabulary.initialisation.ofa import Ofa
from adapt.vocabulary.initialisation.omp import Omp
from adapt.vocabulary.initialisation.random import Random
from adapt.vocabulary.initialisation.wechsel import Wechsel

METHODS = (MeanOfPieces, Mean, Random, Gaussian, ConvexHull, LastFirst, Cw2v, Focus, Wechsel, Ofa, Omp, Align)


def one_of(*methods: type[Initialisation]) -> Any:
    """The annotation of a field that takes any of these methods: its settings, or just its name."""
    alternatives = Union[methods]  # noqa: UP007 (a table, not a list of names)
    return Annotated[alternatives, Field(discriminator="method"), BeforeValidator(_from_name)]


def _from_name(value: Any) -> Any:
    return {"method": value} if isinstance(value, str) else value


AnyMethod = one_of(*METHODS)
"""A method's settings, or just its name."""
