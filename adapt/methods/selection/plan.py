"""What of a model trains in which turn of a run, and how that is told and kept."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, field
from hashlib import blake2b
from pathlib import Path
from typing import TYPE_CHECKING, Any

from adapt.checkpoints import read_json
from adapt.methods.selection.units import Unit, parameters_of

if TYPE_CHECKING:
    from adapt.checkpoints import ModelLocation

SELECTION_FILE = "adapt_selection.json"
"""Beside a model's weights: in how many stages parts of it were drawn, and what of it trained in the last one."""


@dataclass
class Selection:
    """The units of a model, and those that train in each turn.

    `draw(turn)` is a pure function of the turn; `always` train in every turn. `turns` are those that the run has had,
    with the update at which each began.
    """

    units: tuple[Unit, ...]
    draw: Callable[[int], Collection[Unit]]
    always: tuple[Unit, ...] = ()
    round: int = 0
    turns: dict[int, int] = field(default_factory=dict)

    def names(self, turn: int) -> frozenset[str]:
        """The parameters that train in a turn."""
        return parameters_of([*self.always, *self.draw(turn)])

    def trained(self) -> frozenset[str]:
        """The parameters that trained in any turn so far."""
        return frozenset().union(*map(self.names, self.turns))

    def shares(self, turn: int) -> dict[str, float]:
        """The share of numbers that train in a turn, for each category of the blocks."""
        names, total, training = self.names(turn), {}, {}
        for unit in self.units:
            if unit.layer is not None:
                total[unit.category] = total.get(unit.category, 0) + unit.size
                own = unit.size if set(unit.parameters) <= names else 0
                training[unit.category] = training.get(unit.category, 0) + own
        return {category: training[category] / total[category] for category in total}


def digest(names: Iterable[str]) -> str:
    """BLAKE2 of a set of names."""
    return blake2b("\n".join(sorted(names)).encode(), digest_size=16).hexdigest()


def rounds_before(location: ModelLocation) -> int:
    """In how many stages parts of a model were drawn before; 0 for a model that no such stage has written."""
    file = location.folder / SELECTION_FILE if location.folder else None
    return int(read_json(file)["rounds"]) if file is not None and file.exists() else 0


def write_selection(selection: Selection, folder: Path) -> None:
    """Note in a model's folder what trained, for the next draw and for whoever merges the model."""
    names = sorted(selection.trained())
    record: dict[str, Any] = {"rounds": selection.round + 1, "trained": names, "digest": digest(names)}
    (folder / SELECTION_FILE).write_text(json.dumps(record, indent=1), encoding="utf-8")
