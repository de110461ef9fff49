"""LISA: a few layers train at a time, others every few updates."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from adapt.errors import AdaptError
from adapt.methods.selection.draw import choose
from adapt.methods.selection.partial import Partial
from adapt.settings import Count, Whole

if TYPE_CHECKING:
    from adapt.methods.selection.plan import Selection
    from adapt.methods.selection.turns import Length
    from adapt.methods.selection.units import Shapes


class Lisa(Partial):
    """Layerwise importance sampling: `layers` random layers train for `every` updates, then others.

    Pan et al. 2024, "LISA: Layerwise Importance Sampling for Memory-Efficient Large Language Model Fine-Tuning",
    arXiv 2403.17919. What stands outside the layers trains all along. The moments of a layer are dropped when its turn
    is over, so only those of `layers` layers are ever in memory.
    """

    kind: Literal["lisa"] = "lisa"
    """A few layers at a time, drawn anew every few updates."""
    layers: Count = 2
    """How many layers train at a time."""
    every: Count = 20
    """Updates after which other layers are drawn."""
    seed: Whole = 0
    """Of the draws. The next stage over the model that this one makes draws anew by itself."""

    def length(self) -> Length:
        """Updates between two draws."""
        return self.every

    def select(self, shapes: Shapes, model: Any, round: int) -> Selection:
        """`layers` layers in each turn. Raises AdaptError where the model has no more than these."""
        from adapt.methods.selection.plan import Selection
        from adapt.methods.selection.units import units_of

        units = units_of(shapes)
        blocks = {unit.block for unit in units if unit.layer is not None}
        if self.layers >= len(blocks):
            raise AdaptError(
                f"method.layers is {self.layers}, but the model has {len(blocks)} layers, so all of them would train; "
                f"set it to at most {len(blocks) - 1}, or take method full"
            )

        def draw(turn: int) -> tuple:
            kept = choose(blocks, self.layers, self.seed, round, turn, "lisa")
            return tuple(unit for unit in units if unit.block in kept)

        return Selection(units, draw, tuple(unit for unit in units if unit.layer is None), round)
