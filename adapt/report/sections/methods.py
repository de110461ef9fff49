"""What the methods of a training stage did: which tensors trained, the cost of 4 bits, pruning, ranks, restarts."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby
from typing import Any

from adapt.display import short
from adapt.methods.selection.units import units_of
from adapt.report.blocks import Block, Cell, Text, share, table, words

SHOWN = frozenset({"selection", "exchange", "pruned", "pruned_copy", "restarts", "rank_select", "offline"})
"""The keys of a stage's metrics that are told here."""


def methods(metrics: Mapping[str, Any]) -> list[Block]:
    """A block for each of these that the stage has numbers of."""
    return [
        *selection(metrics.get("selection") or {}),
        *exchange(metrics.get("exchange") or {}),
        *pruned(metrics.get("pruned") or {}, metrics.get("pruned_copy") or {}),
        *restarts(metrics.get("restarts") or {}),
        *rank_select(metrics.get("rank_select") or {}),
        *offline(metrics.get("offline") or {}, (metrics.get("merge") or {}).get("written") or {}),
    ]


def selection(found: Mapping[str, Any]) -> list[Block]:
    """A map of layers and kinds of tensors: what trained. Neighbouring layers that are alike are one row."""
    trained = units_of(dict.fromkeys(found.get("trained") or (), ()))
    inside = {(unit.layer, unit.kind) for unit in trained if unit.layer is not None}
    if not inside:
        return []
    kinds = found.get("kinds") or sorted({kind for _, kind in inside})
    layers = range(found.get("layers") or 1 + max(layer for layer, _ in inside))
    rows = [
        (name, *(Cell("trains", "good") if kind in there else "" for kind in kinds))
        for name, there in _alike([frozenset(kind for at, kind in inside if at == layer) for layer in layers])
    ]
    turns = found.get("turns") or []
    note = "Tensors of the blocks that trained; the others are bit for bit what they were."
    note += f" They were drawn {len(turns)} times; what trained in any turn is marked." if len(turns) > 1 else ""
    blocks: list[Block] = [table("Which tensors trained", ("layer", *map(words, kinds)), rows, note)]
    shares = [(short(turn["update"]), *map(share, turn["shares"].values())) for turn in turns if turn.get("shares")]
    if shares:
        columns = ("from update", *map(words, turns[0]["shares"]))
        blocks.append(table("Share of the numbers that trained", columns, shares))
    return blocks


def _alike(layers: Sequence[frozenset[str]]) -> Iterator[tuple[str, frozenset[str]]]:
    """Runs of equal layers: `3` or `3 to 7`, and what they have."""
    for there, run in groupby(range(len(layers)), lambda layer: layers[layer]):
        first, *rest = run
        yield f"{first} to {rest[-1]}" if rest else str(first), there


def exchange(found: Mapping[str, Any]) -> list[Block]:
    """What it costs that the written model has the original matrices and not those in 4 bits that trained along."""
    names = {
        "live": "as it trained",
        "original": "with the original matrices",
        "dequantised": "with what the 4 bits stand for",
    }
    rows = [
        (
            names[name],
            _small(found[name].get("kl")),
            _share(found[name].get("top1_agreement")),
            f"{found[name]['bits_per_byte']:.4f}",
            Cell("written", "good") if name == found.get("written") else "",
        )
        for name in names
        if name in found
    ]
    note = (
        f"{found.get('matrices_in_nf4')} of {found.get('matrices')} matrices stood frozen in 4 bits. What is written "
        "holds the original ones; divergence (nats per token) from the model as it trained."
    )
    columns = ("model", "divergence", "same first choice", "bits per byte", "")
    return [table("Frozen matrices in 4 bits", columns, rows, note)] if rows else []


def pruned(found: Mapping[str, Any], copy: Mapping[str, Any]) -> list[Block]:
    """How much smaller the pruned copy is, and how far from the whole model."""
    if not found:
        return []
    text = (
        f"Trained on a pruned copy: {found['parameters']:,} of {found['whole_parameters']:,} parameters, "
        f"{found['storage_ratio']:.2f} times less parameter storage at 16 bits a number (packed ones as they are)."
    )
    if copy:
        text += (
            f" Its divergence from the whole model is {copy['kl']:.2e} nats per token, with "
            f"{share(copy['top1_agreement'])} equal first choices."
        )
    return [Text(text)]


def restarts(found: Mapping[str, Any]) -> list[Block]:
    """How often an update went into the weights and began anew."""
    if "restarts" not in found:
        return []
    count = found["restarts"]
    times = "once" if count == 1 else f"{count} times"
    return [Text(f"The update was put into the weights and begun anew {times}: its rank is up to {count + 1}-fold.")]


def rank_select(found: Mapping[str, Any]) -> list[Block]:
    """The rank that each module has kept, in layers and kinds."""
    units = {unit.parameters[0]: unit for unit in units_of(dict.fromkeys(found.get("ranks") or {}, ()), apart=True)}
    ranks = {(units[name].layer, units[name].kind): rank for name, rank in (found.get("ranks") or {}).items()}
    if not ranks:
        return []
    kinds = list(dict.fromkeys(kind for _, kind in ranks))
    layers = sorted({layer for layer, _ in ranks}, key=lambda layer: -1 if layer is None else layer)
    rows = [("" if layer is None else str(layer), *(ranks.get((layer, kind)) for kind in kinds)) for layer in layers]
    note = f"{share(found['share'])} of the ranks are left; the gates of the others were pulled to zero."
    return [table("Ranks", ("layer", *map(words, kinds)), rows, note)]


def offline(found: Mapping[str, Any], online: Mapping[str, Any]) -> list[Block]:
    """The moving average beside the adapter that trained, each against the live model."""
    rows = [
        (name, _small(numbers["kl"]), _share(numbers["top1_agreement"]))
        for name, numbers in (("online, as it trained", online), ("offline, the moving average", found))
        if numbers
    ]
    note = "Both are kept: the online adapter in `adapter/` and in the model, the offline one in `adapter_offline/`."
    columns = ("adapter", "divergence from the live model", "same first choice")
    return [table("Online and offline adapter", columns, rows, note)] if found else []


def _small(value: Any) -> str:
    return "" if value is None else f"{value:.2e}"


def _share(value: Any) -> str:
    return "" if value is None else share(value)
