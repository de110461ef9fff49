"""How gates use their adapters, as a picture: rows are places in the model, columns adapters, panels kinds of text."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from adapt.report.plots import INK

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_PLACE = re.compile(r".*?\.(?P<block>\d+)(?:\.(?P<rest>.+))?")
_ROWS = 60
"""Rows that are still named each; of more, the first of each block is."""
_WRITTEN = 14
"""Rows up to which the weights stand in the cells."""


def heat_map(cells: Mapping[str, Sequence[Sequence[float]]], layers: Sequence[str], names: Sequence[str]) -> Figure:
    """Mean gates `{text: [layer][adapter]}` as one panel for each text, all on the scale from 0 to 1.

    `layers` are the gates' module paths (`model.layers.0.self_attn.q_proj`), `names` the adapters.
    """
    from matplotlib.figure import Figure

    height = min(14.0, 1.5 + (0.19 if len(layers) > _WRITTEN else 0.3) * len(layers))
    figure = Figure(figsize=(8.2, height), layout="constrained", facecolor="white")
    panels = figure.subplots(1, len(cells), squeeze=False, sharey=True)[0]
    image = None
    for axes, (text, rows) in zip(panels, cells.items(), strict=True):
        image = axes.imshow(rows, cmap="Blues", vmin=0, vmax=1, aspect="auto", interpolation="nearest")
        _dress(axes, text, names)
        if len(layers) <= _WRITTEN:
            _write(axes, rows)
    _label_rows(panels, layers)
    bar = figure.colorbar(image, ax=list(panels), shrink=0.6, pad=0.02)
    bar.ax.tick_params(labelsize=8, colors=INK)
    return figure


def _dress(axes: Axes, text: str, names: Sequence[str]) -> None:
    turned = sum(map(len, names)) > 18
    axes.set_xticks(range(len(names)), names, rotation=60 if turned else 0, ha="right" if turned else "center")
    axes.tick_params(labelsize=8, colors=INK, length=0)
    axes.set_title(text, fontsize=9, color=INK)
    for spine in axes.spines.values():
        spine.set_visible(False)


def _write(axes: Axes, rows: Sequence[Sequence[float]]) -> None:
    for row, values in enumerate(rows):
        for column, value in enumerate(values):
            colour = "white" if value > 0.6 else INK
            axes.text(column, row, f"{value:.2f}", ha="center", va="center", fontsize=7, color=colour)


def _label_rows(panels: Sequence[Axes], layers: Sequence[str]) -> None:
    """The places' names, and a line where a block begins."""
    found = [_PLACE.fullmatch(layer) for layer in layers]
    blocks = [None if match is None else match["block"] for match in found]
    first = [place == 0 or block != blocks[place - 1] for place, block in enumerate(blocks)]
    shown = [place for place in range(len(layers)) if len(layers) <= _ROWS or first[place]]
    panels[0].set_yticks(shown, [place_name(layers[place]) for place in shown], fontsize=7)
    for axes in panels:
        for place, begins in enumerate(first):
            if begins and place:
                axes.axhline(place - 0.5, color="white", linewidth=2)


def place_name(layer: str) -> str:
    """`model.layers.0.self_attn.q_proj` as `0 q_proj`, `model.layers.0` as `block 0`; others as they are."""
    match = _PLACE.fullmatch(layer)
    if match is None:
        return layer
    return f"{match['block']} {match['rest'].rsplit('.', 1)[-1]}" if match["rest"] else f"block {match['block']}"
