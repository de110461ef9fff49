"""An inspection as one picture: sizes, angles and sign conflicts layer by layer, and where the vectors' energy lies."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from merge.inspect import CLOSE_VECTORS, LARGE_VECTOR
from merge.kinds import KINDS

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_COLOURS = ("#2563a8", "#d1602b", "#3a8f5c", "#8757a8", "#b8912a", "#4a9aa5", "#a8436b", "#6b6b6b")
_INK, _GRID, _LINE = "#30343b", "#dfe3e8", "#9aa1ab"
_KIND_COLOURS = dict(zip(KINDS, ("#b8912a", "#2563a8", "#3a8f5c", "#8757a8", "#6b6b6b"), strict=True))


_NOISE = 0.05
"""A cosine's axis spans at least this on both sides, so that chance does not look like a finding."""


def draw(report: Mapping[str, Any], path: Path) -> None:
    """Write the report of `merge.inspect.inspect` as a PNG file.

    Panels: relative norm per layer with the threshold of a warning; cosine and sign conflict of each pair per layer
    (these two only where there are pairs); the share of each vector's squared norm by kind of module.
    """
    from matplotlib.figure import Figure

    vectors, pairs = report["vectors"], report["cosines"]
    heights = [2.6, *([2.3, 2.3] if pairs else []), 0.9 + 0.34 * len(vectors)]
    figure = Figure(figsize=(8.2, sum(heights)), layout="constrained", facecolor="white")
    panels = list(figure.subplots(len(heights), 1, squeeze=False, gridspec_kw={"height_ratios": heights})[:, 0])
    for axes in panels:
        _dress(axes)
    _layers(panels[0], vectors, "relative_norm", "norm / norm of the weights")
    _threshold(panels[0], LARGE_VECTOR, [vector["relative_norm"] for vector in vectors.values()])
    panels[0].set_ylim(bottom=0)
    if pairs:
        _layers(panels[1], pairs, "cosine", "cosine")
        _threshold(panels[1], CLOSE_VECTORS, [pair["cosine"] for pair in pairs.values()])
        panels[1].axhline(0, color=_LINE, linewidth=1)
        low, high = panels[1].get_ylim()
        panels[1].set_ylim(min(low, -_NOISE), max(high, _NOISE))
        _layers(panels[2], pairs, "sign_conflict", "sign conflict", legend=False)
        panels[2].axhline(0.5, color=_LINE, linewidth=1, linestyle="--")
        panels[2].set_ylim(0, 1)
    _energy(panels[-1], vectors)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=140, metadata={"Software": None})


def _dress(axes: Axes) -> None:
    axes.grid(True, color=_GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(colors=_INK, labelsize=9)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    for side in ("left", "bottom"):
        axes.spines[side].set_color(_LINE)


def _layers(axes: Axes, series: Mapping[str, Any], number: str, label: str, legend: bool = True) -> None:
    """One line for each name over the layers."""
    for index, (name, values) in enumerate(series.items()):
        points = values["per_layer"]
        axes.plot(
            [point["layer"] for point in points],
            [point[number] for point in points],
            color=_COLOURS[index % len(_COLOURS)],
            label=name,
            linewidth=1.8,
            marker="o",
            markersize=3.5,
        )
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.set_xlabel("layer", fontsize=9, color=_INK)
    axes.set_ylabel(label, fontsize=9, color=_INK)
    if legend and series:
        axes.legend(frameon=False, fontsize=9, loc="lower left", bbox_to_anchor=(0, 1), ncols=2)


def _threshold(axes: Axes, value: float, found: Sequence[float]) -> None:
    """The line of a warning, where something comes near it."""
    for sign in (1, -1):
        if any(sign * number > value / 2 for number in found):
            axes.axhline(sign * value, color=_INK, linewidth=1, linestyle="--")


def _energy(axes: Axes, vectors: Mapping[str, Any]) -> None:
    """A bar for each vector, cut by kind of module."""
    names = list(vectors)
    left = [0.0] * len(names)
    for kind in KINDS:
        shares = [vector["modules"].get(kind, {}).get("energy", 0.0) for vector in vectors.values()]
        if any(shares):
            axes.barh(range(len(names)), shares, left=left, height=0.62, color=_KIND_COLOURS[kind], label=kind)
            left = [begin + share for begin, share in zip(left, shares, strict=True)]
    axes.set_yticks(range(len(names)), names)
    axes.invert_yaxis()
    axes.grid(False, axis="y")
    axes.set_xlim(0, 1)
    axes.set_xlabel("share of the squared norm", fontsize=9, color=_INK)
    axes.legend(frameon=False, fontsize=9, loc="lower left", bbox_to_anchor=(0, 1), ncols=5)
