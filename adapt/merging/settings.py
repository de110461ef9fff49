"""What a recipe says of a search: which coefficients are free, on what they are judged, how they are proposed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from adapt.merging.free import Free, check_ranges
from adapt.settings import Count, Positive, Real, Settings


def _with_weights(value: Any) -> Any:
    """A name or a list of names as names of weight 1."""
    if isinstance(value, str):
        return {value: 1.0}
    return dict.fromkeys(value, 1.0) if isinstance(value, list | tuple) else value


Weighted = Annotated[
    dict[str, Positive],
    BeforeValidator(_with_weights, json_schema_input_type=str | list[str] | dict[str, float]),
]


class SearchSettings(Settings):
    """Free coefficients of a merge, looked for on held-out text or questions."""

    free: Annotated[dict[str, tuple[Real, Real]], Field(min_length=1)]
    """The names in the expression that are numbers to find, each with the ends of its range: `w: [0, 1.5]`."""
    layers: dict[str, Count] = Field(default_factory=dict)
    """Free names that have a value for each of so many groups of layers."""
    kinds: tuple[str, ...] = ()
    """Free names that have a value for each kind of module: embeddings, attention, mlp, norms."""
    on: Weighted = Field(default_factory=dict)
    """Sources whose held-out text is predicted; less bits per byte are better. `{target: 0.7, general: 0.3}` weighs."""
    questions: Weighted = Field(default_factory=dict)
    """Sources of rows with `prompt` and `answer` (or `completion`) that are asked; fewer wrong answers are better."""
    method: Literal["grid", "random", "tpe", "cma"] = "grid"
    """How values are proposed. `tpe` and `cma` learn from earlier trials and need the extra named search."""
    trials: Count = 16
    """How many values are scored at most."""
    bytes: Count = 100_000
    """How much of each text is predicted, in bytes."""
    limit: Count = 200
    """How many questions of each source are asked."""

    def frees(self) -> tuple[Free, ...]:
        """The free coefficients. Raises AdaptError for a range whose ends are not in order."""
        found = tuple(Free(name, low, high, *self._group(name)) for name, (low, high) in self.free.items())
        check_ranges(found)
        return found

    def _group(self, name: str) -> tuple[Literal["model", "layers", "kinds"], int]:
        if name in self.layers:
            return "layers", self.layers[name]
        return ("kinds", 1) if name in self.kinds else ("model", 1)

    def sources(self) -> Mapping[tuple[str, str], str]:
        """Where each source is named below the search, and its name."""
        return {(key, name): name for key in ("on", "questions") for name in getattr(self, key)}
