"""The kinds of suite; adding one is a file and a line in the table."""

from __future__ import annotations

from typing import Annotated, Union

from pydantic import Field

from adapt.evaluation.suites.base import Candidate, ItemSuite, Scores, Suite
from adapt.evaluation.suites.bits_per_byte import BitsPerByteSuite
from adapt.evaluation.suites.exact_match import ExactMatchSuite
from adapt.evaluation.suites.harness import HarnessSuite

SUITES = (BitsPerByteSuite, ExactMatchSuite, HarnessSuite)
AnySuite = Annotated[Union[SUITES], Field(discriminator="kind")]  # noqa: UP007 (a table, not a list of names)

__all__ = [
    "SUITES",
    "AnySuite",
    "BitsPerByteSuite",
    "Candidate",
    "ExactMatchSuite",
    "HarnessSuite",
    "ItemSuite",
    "Scores",
    "Suite",
]
