"""A training stage: what trained, on what, how the losses went, what was forgotten."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from adapt.display import duration_text, short, size_text
from adapt.report import plots as draw
from adapt.report.blocks import Block, Cell, Sample, Text, change, facts, records, share, table, words
from adapt.report.plots import Plots
from adapt.report.records import Record
from adapt.report.sections import mixture
from adapt.report.sections.methods import SHOWN, methods
from adapt.report.sections.preference import preference

_SHOWN = {"trainable", "general", "target", "sources", "base_choice"}
_SHOWN |= {"preference", "tokens", "steps", "seconds", "tokens_per_second", "peak_memory_bytes", "changed_tensors_ok"}
_SHOWN |= {"plan", "mixture", "collapse"} | SHOWN
_NOT_A_SOURCE = {"time", "event", "step", "tokens"}


def section(record: Record, plots: Plots) -> list[Block]:
    """All that is known of a training run; the curves come from its log."""
    metrics = record.metrics
    return [
        *_lead(metrics),
        *_loss(record, plots),
        *_bits(record, plots),
        *_general(record, plots),
        *preference(record, plots),
        *mixture.usage(record, plots),
        *mixture.collapsed(metrics),
        *_trainable(metrics),
        *_memory(metrics.get("plan") or {}),
        *_sources(metrics.get("sources") or []),
        *_base_choice(metrics.get("base_choice") or {}),
        *methods(metrics),
        *facts("Further numbers", metrics, leave_out=_SHOWN),
    ]


def _lead(metrics: Mapping[str, Any]) -> list[Block]:
    if "tokens" not in metrics:
        return []
    text = f"Trained on {short(metrics['tokens'])} tokens"
    text += f" in {short(metrics['steps'])} steps" if "steps" in metrics else ""
    text += f" and {duration_text(metrics['seconds'])}" if metrics.get("seconds") else ""
    if metrics.get("tokens_per_second"):
        text += f", {short(round(metrics['tokens_per_second']))} tokens per second"
    if metrics.get("peak_memory_bytes"):
        text += f", with at most {size_text(metrics['peak_memory_bytes'])} of memory"
    return [Text(text + ".")]


def _memory(plan: Mapping[str, Any]) -> list[Block]:
    """The planner's estimate beside what the run took."""
    if not plan.get("estimate"):
        return []
    rows = [(name, size_text(size)) for name, size in (plan.get("parts") or {}).items()]
    rows.append(("estimated peak", size_text(plan["estimate"])))
    if plan.get("measured"):
        rows.append(("measured peak", f"{size_text(plan['measured'])} (the estimate is {plan['error']:+.1%})"))
    return [table("Memory while training, by the plan", ("part", "size"), rows)]


def _loss(record: Record, plots: Plots) -> list[Block]:
    steps = [line for line in record.log("train") if _number(line.get("loss"))]
    if len(steps) < 2:
        return []
    loss = [(line["tokens"], line["loss"]) for line in steps if "tokens" in line]
    rate = [(line["tokens"], line["learning_rate"]) for line in steps if _number(line.get("learning_rate"))]
    note = "The loss on the text that is being trained on, and the learning rate below it."
    return [plots.image(f"{record.name}-loss", draw.training(loss, rate), "Training loss", note)] if loss else []


def _bits(record: Record, plots: Plots) -> list[Block]:
    series = _series(record)
    general = (record.metrics.get("general") or {}).get("source")
    blocks: list[Block] = []
    targets = {name: points for name, points in series.items() if name != general and len(points) > 1}
    if targets:
        note = (
            "How well held-out text is predicted, in bits per byte of text; lower is better. Unlike a loss per token, "
            "it can be compared between models with different vocabularies."
        )
        figure = draw.lines(targets, "tokens trained", "bits per byte", tokens=True)
        blocks.append(plots.image(f"{record.name}-target", figure, "Held-out text", note))
    measured = record.metrics.get("target") or {}
    rows = [(name, *_ends(values)) for name, values in measured.items() if isinstance(values, Mapping)]
    if rows:
        columns = ("source", "before", "after", "change")
        blocks.append(table("Bits per byte before and after", columns, rows))
    return blocks


def _series(record: Record) -> dict[str, list[tuple[float, float]]]:
    """Bits per byte over tokens, for each source that the log's evaluations name."""
    series: dict[str, list[tuple[float, float]]] = {}
    for line in record.log("evaluation"):
        nested = line.get("bits_per_byte")
        values = nested if isinstance(nested, Mapping) else line
        for name, value in values.items():
            if name not in _NOT_A_SOURCE and _number(value) and "tokens" in line:
                series.setdefault(name, []).append((line["tokens"], value))
    return series


def _general(record: Record, plots: Plots) -> list[Block]:
    general = record.metrics.get("general") or {}
    curve = general.get("curve") or []
    blocks: list[Block] = []
    if len(curve) > 1:
        note = (
            f"The model keeps being asked to predict text of '{general.get('source')}'. Where the curve rises above "
            "the dashed line, the model has forgotten some of what it knew. A rise at the start that heals is called "
            "the stability gap."
        )
        figure = draw.general(curve, general.get("stability_gap"))
        blocks.append(plots.image(f"{record.name}-general", figure, "General text while training", note))
    if general.get("start") is not None and general.get("end") is not None:
        blocks.append(Text(_forgotten(general)))
    return blocks


def _forgotten(general: Mapping[str, Any]) -> str:
    before, after = general["start"], general["end"]
    text = (
        f"General text: {before:.3f} bits per byte before, {after:.3f} after ({100 * (after - before) / before:+.1f}%)."
    )
    gap = general.get("stability_gap") or {}
    depth = gap.get("depth")
    if not depth:
        return text + " It never rose above its start: there was no stability gap."
    step, recovered = gap.get("deepest_step"), gap.get("recovered_step")
    if recovered is None:
        return text + f" It rose by up to {depth:.3f} (at step {step}) and did not come back within the run."
    return (
        text + f" The stability gap was {depth:.3f} bits per byte deep at step {step} and closed at step {recovered}."
    )


def _trainable(metrics: Mapping[str, Any]) -> list[Block]:
    trainable = metrics.get("trainable") or {}
    rows: list[tuple[str, Any]] = []
    for name, value in trainable.items():
        if isinstance(value, Mapping) or (isinstance(value, Sequence) and not isinstance(value, str)):
            rows.append((words(name), _compact(value)))
        else:
            rows.append((words(name), share(value) if "share" in name and _number(value) else short(value)))
    note = "Every tensor outside this set was compared with its value before training and had not changed."
    unchanged = metrics.get("changed_tensors_ok")
    return [table("What trained", ("", "value"), rows, note if unchanged else "")] if rows else []


def _compact(value: Any) -> str:
    if isinstance(value, Mapping):
        return "; ".join(f"{words(name)}: {short(item)}" for name, item in value.items())
    return ", ".join(map(short, value))


def _base_choice(choice: Mapping[str, Any]) -> list[Block]:
    """The two bases that a 4-bit adapter can be added to, and how close each sum is to the model as it trained."""
    measured = {name: values for name, values in choice.items() if isinstance(values, Mapping)}
    columns = list(dict.fromkeys(number for values in measured.values() for number in values))
    rows = [
        (name, *(values.get(number) for number in columns), "written" if name == choice.get("written") else "")
        for name, values in measured.items()
    ]
    note = (
        "The adapter trained over a 4-bit base. It can be added to the original base or to the one that the 4 bits "
        "stand for; each sum is compared with the model as it trained. Less divergence and more agreement are better."
    )
    note += f" The recipe asks for: {choice['asked']}." if "asked" in choice else ""
    return [table("The base that was written", ("base", *map(words, columns), ""), rows, note)] if rows else []


def _sources(reports: Sequence[Mapping[str, Any]]) -> list[Block]:
    note = (
        "What each source gives; shares are of its tokens. Tokens with loss are those that the model learns to write."
    )
    rows = [{name: _shown(name, value) for name, value in report.items()} for report in reports]
    blocks = records("Sources", rows, note, leave_out={"example"})
    for report in reports:
        parts = tuple((str(text), bool(trained)) for text, trained in report.get("example") or ())
        if parts:
            name = report.get("source") or report.get("name") or "a source"
            note = "One training example as the model reads it. It is trained to write what is marked."
            blocks.append(Sample(f"Example from {name}", parts, note))
    return blocks


def _shown(name: str, value: Any) -> Any:
    return (
        Cell(share(value), number=True)
        if ("share" in name or "truncated" in name) and isinstance(value, float)
        else value
    )


def _ends(values: Mapping[str, Any]) -> tuple[Any, Any, Any]:
    before, after = values.get("start"), values.get("end")
    return before, after, change(before, after)


def _number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)
