"""What every part of a recipe is made of: a strict, documented, immutable settings class, and number types.

A recipe writes numbers the way people do: `1e-3`, `2M`, `16k`, `50%`. The types below read them.
"""

from __future__ import annotations

import re
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

_SUFFIX = {"": 1, "k": 10**3, "M": 10**6, "G": 10**9, "B": 10**9}
_NUMBER = re.compile(r"([+-]?(?:\d[\d_]*\.?\d*|\.\d+)(?:[eE][+-]?\d+)?)(%|[kMGB]?)")


def parse_number(value: Any) -> Any:
    """Turn `"1e-3"`, `"2M"`, `"16k"` or `"50%"` into the number that it looks like; leave the rest alone.

    YAML reads `1e-3` as a string and `2M` has no meaning there, so every numeric field comes through here.
    An exact integer stays an integer. Raises ValueError for a string that is no number.
    """
    if not isinstance(value, str):
        return value
    match = _NUMBER.fullmatch(value.strip())
    if match is None:
        raise ValueError(f"'{value}' is not a number; write for example 1e-3, 2M, 16k or 50%")
    digits, suffix = match.groups()
    number = float(digits.replace("_", ""))
    if suffix == "%":
        return number / 100
    number *= _SUFFIX[suffix]
    return int(number) if number.is_integer() else number


def _number(value: Any) -> Any:
    if isinstance(value, bool):
        raise ValueError(f"{str(value).lower()} is not a number")
    return parse_number(value)


_FromText = BeforeValidator(_number)

Count = Annotated[int, _FromText, Field(ge=1)]
"""A whole number from 1: tokens, steps, pieces."""
Whole = Annotated[int, _FromText, Field(ge=0)]
"""A whole number from 0."""
Share = Annotated[float, _FromText, Field(ge=0, le=1)]
"""A part of a whole, from 0 to 1; `20%` is 0.2."""
Positive = Annotated[float, _FromText, Field(gt=0, allow_inf_nan=False)]
"""A real number above 0."""
NonNegative = Annotated[float, _FromText, Field(ge=0, allow_inf_nan=False)]
"""A real number from 0."""
Real = Annotated[float, _FromText, Field(allow_inf_nan=False)]
"""Any finite real number."""


class Settings(BaseModel):
    """Base of everything that can stand in a recipe: unknown keys refused, nothing mutable, every field described.

    A description is written once, as the docstring under the field; the reference, the JSON Schema and the comments
    of `adapt init` come from it.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True, validate_default=True)
