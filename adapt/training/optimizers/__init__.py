"""Optimisers by name. A new one is a file here and a line in the table."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Union

from pydantic import BeforeValidator, Field

from adapt.training.optimizer import BaseOptimizer, Optimizer
from adapt.training.optimizers.adafactor import Adafactor
from adapt.training.optimizers.apollo import Apollo
from adapt.training.optimizers.galore import Galore
from adapt.training.optimizers.lion import Lion

OPTIMIZERS: tuple[type[BaseOptimizer], ...] = (Optimizer, Lion, Adafactor, Galore, Apollo)


def named(value: Any) -> Any:
    """`lion` as a short form of `{kind: lion}`; settings without a kind are AdamW's."""
    if isinstance(value, str):
        return {"kind": value}
    return {"kind": "adamw", **value} if isinstance(value, Mapping) else value


AnyOptimizer = Annotated[Union[OPTIMIZERS], Field(discriminator="kind"), BeforeValidator(named)]  # noqa: UP007

__all__ = ["OPTIMIZERS", "AnyOptimizer", "BaseOptimizer"]
