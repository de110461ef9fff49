"""Plots: one function per picture, each from plain numbers to a PNG file. The object-oriented matplotlib, no state."""

from __future__ import annotations

import base64
import io
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from adapt.report.blocks import Image

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLOURS = ("#2563a8", "#d1602b", "#3a8f5c", "#8757a8", "#b8912a", "#4a9aa5", "#a8436b", "#6b6b6b")
INK, GRID = "#30343b", "#dfe3e8"
Points = Sequence[tuple[float, float]]


@dataclass(frozen=True)
class Plots:
    """Where the plots of one report go: `folder/plots/`."""

    folder: Path

    def image(self, file: str, figure: Figure, title: str, note: str = "") -> Image:
        """Write the figure as `plots/<file>.png` (whole or not at all) and return it for the page."""
        buffer = io.BytesIO()
        figure.savefig(buffer, format="png", dpi=140, metadata={"Software": None})
        name = "".join(letter if letter.isalnum() or letter in "-_." else "-" for letter in file)
        path = self.folder / "plots" / f"{name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_suffix(".part")
        part.write_bytes(buffer.getvalue())
        os.replace(part, path)
        uri = "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")
        return Image(title, f"plots/{name}.png", uri, note)


def canvas(rows: int = 1, height: float = 3.2, ratios: Sequence[float] | None = None) -> tuple[Figure, list[Axes]]:
    """A figure with panels under each other that share their horizontal axis."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8.2, height), layout="constrained", facecolor="white")
    panels = figure.subplots(rows, 1, sharex=True, squeeze=False, gridspec_kw={"height_ratios": ratios or [1] * rows})
    for axes in panels[:, 0]:
        _dress(axes)
    return figure, list(panels[:, 0])


def _dress(axes: Axes) -> None:
    axes.grid(True, color=GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(colors=INK, labelsize=9)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    for side in ("left", "bottom"):
        axes.spines[side].set_color("#9aa1ab")


def _label(axes: Axes, horizontal: str = "", vertical: str = "") -> None:
    axes.set_xlabel(horizontal, fontsize=9, color=INK)
    axes.set_ylabel(vertical, fontsize=9, color=INK)


def _tokens(axes: Axes) -> None:
    from matplotlib.ticker import EngFormatter

    axes.xaxis.set_major_formatter(EngFormatter(sep=""))


def lines(
    series: Mapping[str, Points], horizontal: str, vertical: str, tokens: bool = False, zero: bool = False
) -> Figure:
    """One line per name over the same axis, which counts tokens or other whole things; optionally a line at zero."""
    figure, (axes,) = canvas()
    for colour, (name, points) in zip(_cycle(len(series)), series.items(), strict=True):
        axes.plot(*_columns(points), color=colour, label=name, linewidth=1.8, marker="o", markersize=3.5)
    _label(axes, horizontal, vertical)
    if tokens:
        _tokens(axes)
    else:
        axes.xaxis.get_major_locator().set_params(integer=True)
    if zero:
        axes.axhline(0, color="#9aa1ab", linewidth=1)
    axes.legend(frameon=False, fontsize=9)
    return figure


def training(loss: Points, rate: Points) -> Figure:
    """The training loss, as logged and smoothed, over the learning rate."""
    figure, panels = canvas(2 if rate else 1, 3.9 if rate else 3.2, [3, 1] if rate else None)
    horizontal, vertical = _columns(loss)
    panels[0].plot(horizontal, vertical, color=COLOURS[0], alpha=0.35, linewidth=1, label="as logged")
    panels[0].plot(horizontal, _smooth(vertical), color=COLOURS[0], linewidth=2, label="moving average")
    panels[0].legend(frameon=False, fontsize=9)
    _label(panels[0], "" if rate else "tokens trained", "loss (nats per token)")
    if rate:
        panels[1].plot(*_columns(rate), color=COLOURS[1], linewidth=1.8)
        panels[1].set_ylim(bottom=0)
        panels[1].ticklabel_format(axis="y", style="sci", scilimits=(0, 0))
        _label(panels[1], "tokens trained", "learning rate")
    _tokens(panels[-1])
    return figure


def general(curve: Points, gap: Mapping[str, Any] | None) -> Figure:
    """Bits per byte of general text over the tokens trained, with the stability gap: its highest point and its end."""
    figure, (axes,) = canvas()
    horizontal, vertical = _columns(curve)
    axes.plot(horizontal, vertical, color=COLOURS[0], linewidth=1.8, marker="o", markersize=3.5)
    if vertical:
        axes.axhline(vertical[0], color="#9aa1ab", linewidth=1, linestyle="--", label="before training")
    if gap and len(vertical) > 1 and max(vertical) > vertical[0]:
        deepest = max(range(len(vertical)), key=vertical.__getitem__)
        after = [index for index in range(deepest, len(vertical)) if vertical[index] <= vertical[0]]
        end = after[0] if after else len(vertical) - 1
        name = "stability gap" if after else "above the start until the end"
        axes.axvspan(horizontal[0], horizontal[end], color=COLOURS[1], alpha=0.12, label=name)
        axes.plot(horizontal[deepest], vertical[deepest], "v", color=COLOURS[1], markersize=9, label="highest point")
    _label(axes, "tokens trained", "bits per byte")
    _tokens(axes)
    axes.legend(frameon=False, fontsize=9)
    return figure


def bars(scores: Mapping[str, Mapping[str, Mapping[str, Any]]]) -> Figure:
    """Scores `{suite: {model: {"value", "low", "high", "metric"}}}` as bars with their intervals, a panel per suite."""
    from matplotlib.figure import Figure

    columns = 2 if len(scores) in (2, 4) else min(3, len(scores)) or 1
    rows = math.ceil(len(scores) / columns) or 1
    models = max((len(values) for values in scores.values()), default=1)
    figure = Figure(figsize=(8.2, rows * (0.75 + 0.34 * models)), layout="constrained", facecolor="white")
    panels = figure.subplots(rows, columns, squeeze=False, sharey=False).flatten()
    for place, (axes, (suite, values)) in enumerate(zip(panels, scores.items(), strict=False)):
        _bar_panel(axes, suite, values, names=place % columns == 0)
    for axes in panels[len(scores) :]:
        axes.set_visible(False)
    return figure


def _bar_panel(axes: Axes, suite: str, values: Mapping[str, Mapping[str, Any]], names: bool) -> None:
    _dress(axes)
    share = any(score.get("metric") == "exact_match" for score in values.values())
    scale = 100 if share else 1
    numbers = [scale * score["value"] for score in values.values()]
    below = [scale * max(0.0, score["value"] - score["low"]) for score in values.values()]
    above = [scale * max(0.0, score["high"] - score["value"]) for score in values.values()]
    places = range(len(numbers))
    axes.barh(places, numbers, color=_cycle(len(numbers)), height=0.66)
    axes.errorbar(numbers, places, xerr=[below, above], fmt="none", ecolor=INK, elinewidth=1.2, capsize=3)
    axes.set_yticks(places, list(values) if names else [""] * len(numbers))
    axes.invert_yaxis()
    axes.grid(False, axis="y")
    if share:
        axes.set_xlim(0, 105)
    axes.set_title(suite, fontsize=10, color=INK, loc="left")
    _label(axes, "exact match, %" if share else "bits per byte (less is better)")


def _cycle(number: int) -> list[str]:
    return [COLOURS[index % len(COLOURS)] for index in range(number)]


def _columns(points: Points) -> tuple[list[float], list[float]]:
    return [float(point[0]) for point in points], [float(point[1]) for point in points]


def _smooth(values: Sequence[float]) -> list[float]:
    """A moving average over a tenth of the curve, centred, shorter at its ends."""
    half = max(1, len(values) // 20)
    windows = (values[max(0, index - half) : index + half + 1] for index in range(len(values)))
    return [sum(window) / len(window) for window in windows]
