"""Layers and tensors that a person names train, or stay frozen."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from difflib import get_close_matches
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any, Literal

from adapt.errors import AdaptError
from adapt.methods.selection.partial import Partial

if TYPE_CHECKING:
    from adapt.methods.selection.plan import Selection
    from adapt.methods.selection.units import Shapes, Unit

_LAYERS = re.compile(r"(?:(?P<end>first|last) )?(?P<low>\d+)(?:-(?P<high>\d+))?")


class Freeze(Partial):
    """What matches `train` and not `freeze` trains.

    An entry is a layer (`5`), a range of layers with both ends (`0-7`), `first 8`, `last 4`, or a pattern of
    parameters' names in which `*` stands for anything (`*.mlp.*`, `*norm.weight`).
    """

    kind: Literal["freeze"] = "freeze"
    """Layers and tensors by name: what trains, what is frozen."""
    train: tuple[str | int, ...] = ("*",)
    """Layers and patterns that train; all, unless told otherwise. Embeddings have a key of their own."""
    freeze: tuple[str | int, ...] = ()
    """Layers and patterns that stay frozen though they match `train`."""

    def conflicts(self) -> Iterator[tuple[str, str]]:
        """Something must be named."""
        yield from super().conflicts()
        if self.train == ("*",) and not self.freeze:
            yield "freeze", "nothing is frozen; name layers or tensors in train or freeze, or take method full"

    def select(self, shapes: Shapes, model: Any, round: int) -> Selection:
        """The same parameters in the whole run. Raises AdaptError for an entry that matches nothing."""
        from adapt.methods.selection.plan import Selection
        from adapt.methods.selection.units import units_of

        units = units_of(shapes, apart=True)
        wanted = {unit.name for entry in self.train for unit in matching(str(entry), units, "train")}
        wanted -= {unit.name for entry in self.freeze for unit in matching(str(entry), units, "freeze")}
        kept = tuple(unit for unit in units if unit.name in wanted)
        return Selection(units, lambda turn: kept, (), round)


def matching(entry: str, units: Sequence[Unit], key: str) -> list[Unit]:
    """The units that an entry means. Raises AdaptError where there are none."""
    match = _LAYERS.fullmatch(entry)
    if match is None:
        found = [unit for unit in units if fnmatchcase(unit.name, entry)]
        hint = f"{_nearest(entry, units)}; embeddings are a matter of train_embeddings"
    else:
        depth = 1 + max((unit.layer for unit in units if unit.layer is not None), default=-1)
        low, high = _range(match, depth)
        found = [unit for unit in units if unit.layer is not None and low <= unit.layer <= high]
        hint = f"its layers are 0-{depth - 1}"
    if not found:
        raise AdaptError(f"method.{key}: '{entry}' matches nothing of this model; {hint}")
    return found


def _nearest(entry: str, units: Sequence[Unit]) -> str:
    """What the author of a pattern may have meant."""
    known = sorted({part for unit in units for part in unit.name.split(".")})
    for word in entry.split("."):
        if "*" not in word and word not in known:
            near = get_close_matches(word, known, 1, 0)[0]
            return f"no part of a parameter's name is '{word}', the nearest is '{near}'"
    return f"a parameter is called '{units[0].name}'"


def _range(match: re.Match[str], depth: int) -> tuple[int, int]:
    """The first and the last layer of an entry."""
    low, high = int(match["low"]), int(match["high"] or match["low"])
    if match["end"] == "first":
        return 0, low - 1
    return (max(0, depth - low), depth - 1) if match["end"] == "last" else (low, high)
