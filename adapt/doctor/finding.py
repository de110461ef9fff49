"""One thing that was looked at."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

State = Literal["ok", "missing", "broken"]


@dataclass(frozen=True)
class Finding:
    """`ok`: works. `missing`: an optional thing that is not there. `broken`: adapt does not work as it should.

    `value` is what is there, `fix` what to do about it where it is not ok.
    """

    part: str
    name: str
    state: State
    value: str
    fix: str = ""
