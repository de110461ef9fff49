"""A merge: how large the task vectors are, how they lie to each other, and where every row came from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from adapt.report import plots as draw
from adapt.report.blocks import Block, Cell, Text, facts, share, table, words
from adapt.report.plots import Plots
from adapt.report.records import Record
from adapt.report.search_curve import curve

_SHOWN = {
    "expression",
    "vocabulary_from",
    "special_from",
    "rows",
    "vectors",
    "cosines",
    "row_drift",
    "warnings",
    "search",
}
_RULES = {
    "shared": "by the formula: every model has the token",
    "partly": "by the formula, as far as models have the token",
    "anchor_only": "taken over: only the model whose vocabulary it is has the token",
    "special": "special and chat tokens, copied whole",
    "appended": "added: chat tokens that the vocabulary lacked",
    "padding": "padding without a token",
    "moved": "matched by token under another number",
    "dropped": "left out: tokens of this model that the vocabulary lacks",
}
_DRIFT_ROWS = 10


def section(record: Record, plots: Plots) -> list[Block]:
    """The expression, warnings first, norms and cosines per layer, rows by rule, rows that drifted."""
    metrics = record.metrics
    vectors, cosines = metrics.get("vectors") or {}, metrics.get("cosines") or {}
    return [
        *_lead(metrics),
        *(Text(f"Warning: {warning}.", "warning") for warning in metrics.get("warnings") or ()),
        *_search(record.name, metrics.get("search"), plots),
        *_vectors(vectors),
        *_cosines(cosines),
        *_per_layer(record, plots, vectors, "relative_norm", "norms", "Size of each task vector, layer by layer"),
        *_per_layer(record, plots, cosines, "cosine", "cosines", "Cosine of the task vectors, layer by layer"),
        *_kinds(vectors, cosines),
        *_rows(metrics.get("rows") or {}),
        *_drift(metrics.get("row_drift") or ()),
        *facts("Further numbers", metrics, leave_out=_SHOWN),
    ]


def _lead(metrics: Mapping[str, Any]) -> list[Block]:
    if not metrics.get("expression"):
        return []
    text = f"The model is {metrics['expression']}, computed in float32 and rounded once."
    if metrics.get("vocabulary_from"):
        text += f" It has the vocabulary of '{metrics['vocabulary_from']}'."
    if metrics.get("special_from"):
        text += f" Its chat tokens and chat template are those of '{metrics['special_from']}'."
    return [Text(text)]


def _search(name: str, search: Mapping[str, Any] | None, plots: Plots) -> list[Block]:
    """What was looked for on what, the best values, and the curve."""
    if not search:
        return []
    best, goals = search["best"], search["goals"]
    text = (
        f"The coefficients of {search['expression']} were found in {len(search['trials'])} trials "
        f"({search['method']}), on text or questions that nothing was trained on."
    )
    values = [(label, value) for label, value in best["values"].items()]
    scores = [
        (goal, words(goals[goal]["metric"]), goals[goal]["weight"], score) for goal, score in best["scores"].items()
    ]
    return [
        Text(text),
        table("Best coefficients", ("coefficient", "value"), values),
        table("Scores with them", ("source", "metric", "weight", "score"), scores),
        plots.image(f"{name}-search", curve(search), "The search", "Less is better."),
    ]


def _vectors(vectors: Mapping[str, Any]) -> list[Block]:
    note = (
        "A task vector is what training changed: a model less the one that it began from. Its relative norm is its "
        "length over that of the weights. Vectors add well while they are small."
    )
    rows = [(name, vector["relative_norm"]) for name, vector in vectors.items()]
    return [table("Task vectors", ("vector", "relative norm"), rows, note)] if rows else []


def _cosines(cosines: Mapping[str, Any]) -> list[Block]:
    note = (
        "At a cosine near 0, two vectors change the model in unrelated ways and can be added; near 1 or -1 they "
        "interfere. The sign conflict is the share of weights that they move in opposite directions: half is chance."
    )
    rows = [
        (pair, _cosine(values["cosine"]), Cell(share(values["sign_conflict"]), number=True))
        for pair, values in cosines.items()
    ]
    return [table("How the vectors lie to each other", ("pair", "cosine", "sign conflict"), rows, note)] if rows else []


def _cosine(value: float) -> Cell:
    return Cell(f"{value:+.4f}", number=True)


def _per_layer(
    record: Record, plots: Plots, values: Mapping[str, Any], number: str, file: str, title: str
) -> list[Block]:
    series = {
        name: [(point["layer"], point[number]) for point in value.get("per_layer") or ()]
        for name, value in values.items()
    }
    series = {name: points for name, points in series.items() if len(points) > 1}
    if not series:
        return []
    return [plots.image(f"{record.name}-{file}", draw.lines(series, "layer", words(number), zero=True), title)]


def _kinds(vectors: Mapping[str, Any], cosines: Mapping[str, Any]) -> list[Block]:
    """Norms and cosines by kind of weight, one row a kind."""
    norms = {f"norm of {name}": vector.get("per_kind") or {} for name, vector in vectors.items()}
    angles = {
        f"cosine of {pair}": {kind: _cosine(values["cosine"]) for kind, values in (value.get("per_kind") or {}).items()}
        for pair, value in cosines.items()
    }
    columns = norms | angles
    kinds = list(dict.fromkeys(kind for values in columns.values() for kind in values))
    rows = [(kind, *(values.get(kind) for values in columns.values())) for kind in kinds]
    return [table("By kind of weight", ("weights", *columns), rows)] if rows else []


def _rows(rows: Mapping[str, Any]) -> list[Block]:
    note = "Rows of the embeddings are matched by the text of their token, never by their number."
    counts = []
    for rule, count in rows.items():
        per_model = count if isinstance(count, Mapping) else {"": count}
        counts += [(_RULES.get(rule, words(rule)), model, number) for model, number in per_model.items()]
    return [table("Rows of the embeddings", ("rule", "model", "rows"), counts, note)] if counts else []


def _drift(drift: Sequence[Mapping[str, Any]]) -> list[Block]:
    """The special rows and the ordinary ones that moved most, each in a table."""
    blocks: list[Block] = []
    for special, title, note in (
        (
            True,
            "Special tokens that moved",
            "How far each row moved, over its length. Only tuning on chats should move them.",
        ),
        (False, "Ordinary tokens that moved most", "How far each row moved, over its length."),
    ):
        moved = [row for row in drift if bool(row.get("special")) == special and row["drift"] > 0]
        moved.sort(key=lambda row: -row["drift"])
        rows = [(row.get("model"), row.get("matrix"), row["token"], row["drift"]) for row in moved[:_DRIFT_ROWS]]
        if rows:
            blocks.append(table(title, ("model", "matrix", "token", "drift"), rows, note))
    return blocks
