"""What a run on pairs of answers learned to prefer: accuracy and margin of rewards, held out and in training."""

from __future__ import annotations

from adapt.report import plots as draw
from adapt.report.blocks import Block, Text, share, table
from adapt.report.plots import Plots
from adapt.report.records import Record

_MARGIN = (
    "How much higher the reward of the preferred answer is than that of the other. The reward is beta times the "
    "log-probability: relative to the model before its first step with dpo, the mean over the answer's tokens with "
    "orpo."
)


def preference(record: Record, plots: Plots) -> list[Block]:
    """Curves and numbers; nothing for a run on anything but pairs."""
    steps = [line for line in record.log("train") if "reward_margin" in line]
    if not steps:
        return []
    measured = record.metrics.get("preference") or {}
    curves = measured.get("curve") or {}
    series = {"batches": [(line["tokens"], line["reward_margin"]) for line in steps]}
    if curves.get("margin"):
        series["held-out pairs"] = [tuple(point) for point in curves["margin"]]
    figure = draw.lines(series, "tokens trained", "margin of rewards", tokens=True)
    blocks: list[Block] = [plots.image(f"{record.name}-margin", figure, "Preference", _MARGIN)]
    rows = [(f"the last {'batch' if len(steps) == 1 else 'batches'}", *_shown(steps[-1], "reward_"))]
    if measured.get("accuracy") is not None:
        rows.insert(0, (f"{measured['pairs']:,} held-out pairs", *_shown(measured, "")))
        blocks.append(Text(f"Of the held-out pairs, {share(measured['accuracy'])} are now in the preferred order."))
    blocks.append(table("Preference at the end", ("", "accuracy", "margin"), rows))
    return blocks


def _shown(numbers: dict, prefix: str) -> tuple[str, float]:
    return share(numbers[f"{prefix}accuracy"]), numbers[f"{prefix}margin"]
