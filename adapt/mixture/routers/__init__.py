"""Ways to weigh adapters at a token, by name. A new one is a file here and a line in the table.

Here are the settings, which load no torch; the modules behind them are in `adapt.mixture.gating`.
"""

from __future__ import annotations

from typing import Annotated, Any, Union

from pydantic import BeforeValidator, Field

from adapt.mixture.routers.arrow import Arrow
from adapt.mixture.routers.choice import RouterChoice
from adapt.mixture.routers.dense import Dense
from adapt.mixture.routers.enforced import Enforced
from adapt.mixture.routers.mlp import Mlp
from adapt.mixture.routers.nearest_key import NearestKey
from adapt.mixture.routers.sequence import Sequence
from adapt.mixture.routers.token import Token

ROUTERS: tuple[type[RouterChoice], ...] = (Token, Dense, Sequence, Enforced, Arrow, NearestKey, Mlp)


def named(value: Any) -> Any:
    """`token` as a short form of `{kind: token}`."""
    return {"kind": value} if isinstance(value, str) else value


AnyRouter = Annotated[Union[ROUTERS], Field(discriminator="kind"), BeforeValidator(named)]  # noqa: UP007

__all__ = ["ROUTERS", "AnyRouter", "RouterChoice"]
