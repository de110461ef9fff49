"""What is learned, by name. A new objective is a file here and a line in the table."""

from __future__ import annotations

from typing import Annotated, Any, Union

from pydantic import BeforeValidator, Field

from adapt.training.objectives.base import Objective
from adapt.training.objectives.causal_lm import CausalLm
from adapt.training.objectives.distil import Distil
from adapt.training.objectives.dpo import Dpo
from adapt.training.objectives.orpo import Orpo
from adapt.training.objectives.sft import Sft

OBJECTIVES: tuple[type[Objective], ...] = (CausalLm, Sft, Dpo, Orpo, Distil)


def named(value: Any) -> Any:
    """`dpo` as a short form of `{kind: dpo}`."""
    return {"kind": value} if isinstance(value, str) else value


AnyObjective = Annotated[Union[OBJECTIVES], Field(discriminator="kind"), BeforeValidator(named)]  # noqa: UP007

__all__ = ["OBJECTIVES", "AnyObjective", "Objective"]
