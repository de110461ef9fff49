"""Spectrum: the matrices with the most signal among their noise train."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from adapt.methods.half import Ratio
from adapt.methods.selection.partial import Partial

if TYPE_CHECKING:
    from adapt.methods.selection.plan import Selection
    from adapt.methods.selection.units import Shapes


class Spectrum(Partial):
    """Of each kind of matrix (queries, gates, ...) those of the layers train whose signal-to-noise ratio is highest.

    Hartford et al. 2024, "Spectrum: Targeted Training on Signal to Noise Ratio", arXiv 2406.06623. Norms and what
    stands outside the layers train too. The ratios are computed once for each matrix and kept in the user's cache.
    """

    kind: Literal["spectrum"] = "spectrum"
    """Matrices chosen by their signal-to-noise ratio."""
    share: Ratio = 0.25
    """Of each kind of matrix, the share of the layers in which it trains."""

    def select(self, shapes: Shapes, model: Any, round: int) -> Selection:
        """The same matrices in the whole run."""
        from adapt.methods.selection.plan import Selection
        from adapt.methods.selection.signal import most_signal
        from adapt.methods.selection.units import units_of

        units = units_of(shapes)
        kept = tuple(most_signal(units, dict(model.named_parameters()), self.share))
        always = tuple(unit for unit in units if unit.layer is None or unit.category == "norm")
        return Selection(units, lambda turn: kept, always, round)
