"""A mixture of adapters: which each layer uses for which text, how sure its gates are, what a collapse lost."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from adapt.report.blocks import Block, Text, share, table
from adapt.report.heat_map import heat_map
from adapt.report.plots import Plots
from adapt.report.records import Record

_BY = {
    "average": "the adapters times their mean gates",
    "ties": "the adapters times their mean gates, trimmed and with elected signs",
    "svd": "the adapters times their mean gates, cut to one LoRA",
}


def usage(record: Record, plots: Plots) -> list[Block]:
    """The heat map of a trained mixture, and its means over the layers; nothing for other runs."""
    found = record.metrics.get("mixture") or {}
    if not found.get("usage"):
        return []
    domains, layers, names = (list(found[key]) for key in ("domains", "layers", "names"))
    cells = {domain or "all": [row[place] for row in found["usage"]] for place, domain in enumerate(domains)}
    gate = {"projection": "linear layer", "layer": "block"}.get(str(found.get("gate")), "model")
    note = (
        f"The mean weight of each adapter over the tokens of a source: a row for each gate ({found.get('router')}, one "
        f"for each {gate}), a panel for each source of the run's own text. Dark is much."
    )
    image = plots.image(f"{record.name}-usage", heat_map(cells, layers, names), "Which adapter is used where", note)
    return [image, _means(found, domains, names)]


def _means(found: Mapping[str, Any], domains: Sequence[str], names: Sequence[str]) -> Block:
    rows = []
    for place, domain in enumerate(domains):
        weights = _mean([row[place] for row in found["usage"]])
        first = _mean([row[place] for row in found["first"]])
        entropy = sum(row[place] for row in found["entropy"]) / len(found["entropy"])
        best = max(range(len(names)), key=first.__getitem__)
        most = f"{names[best]} ({share(first[best])})"
        rows.append([domain or "all", *(f"{weight:.3f}" for weight in weights), most, f"{entropy:.3f}"])
    note = (
        "Means over all gates. An adapter is the first at a token where it weighs most. Entropy is that of the gates' "
        f"probabilities in nats: 0 where they are sure, {math.log(len(names)):.3f} where {len(names)} adapters count "
        "alike."
    )
    return table("Mean weight of each adapter", ["text", *names, "most often first", "entropy"], rows, note)


def _mean(rows: Sequence[Sequence[float]]) -> list[float]:
    return [sum(column) / len(rows) for column in zip(*rows, strict=True)]


def collapsed(metrics: Mapping[str, Any]) -> list[Block]:
    """What a mixture lost as a plain model: of an export, or of the `model/` that its own training left."""
    found = metrics.get("collapse") or {}
    if not found:
        return []
    said = _BY.get(str(found.get("by")), str(found.get("by")))
    note = (
        f"Gates that depend on the token cannot be folded into weights; `model/` holds the base with {said}. "
        "Divergence (nats per token) and equal first choices are measured against the live mixture."
    )
    if "kl" in found:
        text = f"The plain model beside the mixture: divergence {found['kl']:.2e}, same first choice at "
        return [Text(f"{text}{share(found['top1_agreement'])} of a sample's tokens. {note}")]
    live = (found.get("live") or {}).get("bits_per_byte")
    rows: list[list[Any]] = [["the live mixture", "0", "100%", "" if live is None else f"{live:.4f}"]]
    for name, values in (found.get("measured") or {}).items():
        bits = values.get("bits_per_byte")
        row = [name, f"{values['kl']:.2e}", share(values["top1_agreement"]), "" if bits is None else f"{bits:.4f}"]
        rows.append(row)
    if "lost" in found:
        note += f" Rank {found['rank']} leaves out {share(found['lost'])} of the sum's squared norm."
    return [table("The collapsed mixture", ["model", "divergence", "same first choice", "bits per byte"], rows, note)]
