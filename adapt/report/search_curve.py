"""The curve of a search: the loss over a single coefficient, or trial by trial where there are several."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from adapt.report.plots import COLOURS, INK, canvas

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def curve(record: Mapping[str, Any]) -> Figure:
    """Draw a search from its record (as in search.json).

    One coefficient: the loss over its value, and each goal's score where there are several. More: the loss of each
    trial and the least so far, and below it the values that were tried, large those of the best trial.
    """
    trials = [trial for trial in record["trials"] if trial["loss"] is not None]
    labels = list(record["best"]["values"])
    return _over_value(record, trials, labels[0]) if len(labels) == 1 else _over_trials(record, trials, labels)


def _over_value(record: Mapping[str, Any], trials: Sequence[Mapping[str, Any]], label: str) -> Figure:
    goals = record["goals"]
    several = len(goals) > 1
    figure, panels = canvas(1 + several * len(goals), 3.2 + 1.7 * several * len(goals))
    ordered = sorted(trials, key=lambda trial: trial["values"][label])
    across = [trial["values"][label] for trial in ordered]
    _line(panels[0], across, [trial["loss"] for trial in ordered], COLOURS[0])
    panels[0].plot(record["best"]["values"][label], record["best"]["loss"], "o", color=COLOURS[1], markersize=9)
    panels[0].set_title(record["best"]["expression"], fontsize=10, color=INK, loc="left")
    panels[0].set_ylabel("loss" if several else _metric(goals), fontsize=9, color=INK)
    if several:
        for index, (axes, goal) in enumerate(zip(panels[1:], goals, strict=True), 2):
            colour = COLOURS[index % len(COLOURS)]
            _line(axes, across, [trial["scores"][goal] for trial in ordered], colour)
            axes.axvline(record["best"]["values"][label], color=COLOURS[1], linewidth=1, linestyle="--")
            axes.set_title(goal, fontsize=9, color=INK, loc="left")
            axes.set_ylabel(goals[goal]["metric"].replace("_", " "), fontsize=9, color=INK)
    panels[-1].set_xlabel(label, fontsize=9, color=INK)
    return figure


def _over_trials(record: Mapping[str, Any], trials: Sequence[Mapping[str, Any]], labels: Sequence[str]) -> Figure:
    figure, panels = canvas(2, 5.6, [1.2, 1])
    across = range(1, len(trials) + 1)
    losses = [trial["loss"] for trial in trials]
    best, least = [], math.inf
    for value in losses:
        least = min(least, value)
        best.append(least)
    panels[0].plot(across, losses, "o", color=COLOURS[0], markersize=4, alpha=0.6, label="trial")
    panels[0].step(across, best, where="post", color=COLOURS[1], linewidth=1.8, label="best so far")
    panels[0].legend(frameon=False, fontsize=9)
    panels[0].set_ylabel(_metric(record["goals"]), fontsize=9, color=INK)
    winner = losses.index(min(losses))
    for index, label in enumerate(labels):
        colour = COLOURS[index % len(COLOURS)]
        values = [trial["values"][label] for trial in trials]
        panels[1].plot(across, values, ".", color=colour, markersize=5, alpha=0.5)
        panels[1].plot(winner + 1, values[winner], "o", color=colour, markersize=8, label=label)
    panels[1].axvline(winner + 1, color=COLOURS[1], linewidth=1, linestyle="--")
    panels[1].set_ylabel("value", fontsize=9, color=INK)
    panels[1].set_xlabel("trial", fontsize=9, color=INK)
    panels[1].xaxis.get_major_locator().set_params(integer=True)
    panels[1].legend(frameon=False, fontsize=8, ncols=4, loc="lower left", bbox_to_anchor=(0, 1))
    return figure


def _line(axes: Axes, across: Sequence[float], values: Sequence[float], colour: str) -> None:
    axes.plot(across, values, color=colour, linewidth=1.8, marker="o", markersize=4)


def _metric(goals: Mapping[str, Any]) -> str:
    (metric, *others) = {goal["metric"] for goal in goals.values()}
    if others:
        return "loss"
    return "bits per byte" if metric == "bits_per_byte" else "share of wrong answers"
