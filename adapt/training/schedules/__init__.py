"""Learning-rate schedules, by name. A new one is a file here and a line in the table."""

from __future__ import annotations

from typing import Annotated, Any, Union

from pydantic import BeforeValidator, Field

from adapt.training.schedules.base import Schedule
from adapt.training.schedules.constant import Constant
from adapt.training.schedules.infinite import Infinite
from adapt.training.schedules.linear import Linear
from adapt.training.schedules.rewarm_cosine import RewarmCosine
from adapt.training.schedules.wsd import Wsd

SCHEDULES: tuple[type[Schedule], ...] = (RewarmCosine, Linear, Constant, Wsd, Infinite)


def named(value: Any) -> Any:
    """`linear` as a short form of `{kind: linear}`."""
    return {"kind": value} if isinstance(value, str) else value


AnySchedule = Annotated[Union[SCHEDULES], Field(discriminator="kind"), BeforeValidator(named)]  # noqa: UP007

__all__ = ["SCHEDULES", "AnySchedule", "Schedule", "named"]
