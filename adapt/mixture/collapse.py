"""A mixture as one plain checkpoint: gates that depend on the token cannot be folded into weights, their means can.

    average   `W + sum_e m_e s_e B_e A_e`, `m_e` the mean gate of adapter e at this layer over some text
    ties      the same updates, trimmed and with elected signs (Yadav et al. 2023, arXiv 2306.01708), and added
    svd       the sum of `average`, cut to its r largest singular values in each matrix: one LoRA and its merged model

With constant gates `average` is exact. What it costs otherwise is measured on the text: mean KL of a token to the live
mixture, equal first choices, bits per byte.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch

from adapt.errors import AdaptError
from adapt.export.measures import Reference, Text
from adapt.export.source import load_plain
from adapt.mixture.collapsing import factored_sum, scaled_adapters, write_factored
from adapt.mixture.mixture import mixture_in
from adapt.mixture.observing import observe_batches

if TYPE_CHECKING:
    from adapt.mixture.collapsing import Weights

By = Literal["average", "ties", "svd"]
BASE = "base"


@dataclass(frozen=True)
class Way:
    """How to collapse: the rule, the rank of `svd`, and of `ties` the share of each update's numbers that is kept."""

    by: By = "average"
    rank: int = 16
    density: float = 0.2


def mean_gates(model: Any, batches: Any) -> Weights:
    """The mean weight of every adapter over the tokens of some batches, by layer and adapter's name.

    A batch holds what the model takes; padding does not count.
    """
    mixture = mixture_in(model)
    found = observe_batches(model, mixture.routing, batches)
    return weights_of(model, {place: observation.average for place, observation in found.items()})


def weights_of(model: Any, averages: Mapping[str, torch.Tensor]) -> Weights:
    """The weight of every adapter by layer and name, from mean gates `[adapters]` by the gate's place."""
    places = {name: _place(layer.router) for name, layer in gated_layers(model).items()}
    if missing := sorted({place for place in places.values() if place not in averages}):
        raise AdaptError(f"no gate was seen at '{missing[0]}'; the text to average over holds no token")
    names = mixture_in(model).names
    return {name: dict(zip(names, averages[place].tolist(), strict=True)) for name, place in places.items()}


def _place(router: Any) -> str:
    """Where a layer's gate is computed: maybe elsewhere, for several layers."""
    return router.place if hasattr(router, "place") else router.path


def gated_layers(model: Any) -> dict[str, Any]:
    """The layers of a mixture that have a gate, by their names in the plain model."""
    from adapt.mixture.bottleneck import ParallelFeedForward
    from adapt.mixture.layer import MixtureLinear

    kinds = (MixtureLinear, ParallelFeedForward)
    modules = ((name, module) for name, module in model.named_modules() if isinstance(module, kinds))
    return {name: module for name, module in modules if module.router is not None}


def text_batches(text: Text, device: torch.device) -> list[dict[str, torch.Tensor]]:
    """Each window of a text as a batch of its own, so that nothing is padding."""
    return [{"input_ids": torch.tensor([list(window.ids)], device=device)} for window in text.windows]


def collapse(model: Any, base: Path, text: Text, output: Path, way: Way) -> dict[str, Any]:
    """Write the live mixture `model` over the plain model in `base` as a plain checkpoint to `output`.

    The folder appears whole or not at all; with `svd` the LoRA lies in its `adapter/`. Returns `measured`, the numbers
    of the collapsed model and of the base alone beside the live mixture, the live one's bits per byte, and the mean
    gates. Raises AdaptError where there is nothing to collapse.
    """
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise AdaptError(f"'{output}' is not empty; give a new folder, so that no stale file stays beside the result")
    work = output.with_name(f".{output.name}.collapsing")
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    try:
        reference = Reference.of(model, text, work / "live")
        weights = mean_gates(model, text_batches(text, model.device))
        record = write_collapsed(model, base, weights, work, way)
        plain = {"collapsed": work / "model", BASE: base}
        record["measured"] = {name: reference.compare(load_plain(folder)) for name, folder in plain.items()}
        if output.exists():
            output.rmdir()
        (work / "model").rename(output)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    live = {} if reference.bits_per_byte is None else {"live": {"bits_per_byte": reference.bits_per_byte}}
    return record | live | {"by": way.by, "gates": {name: dict(row) for name, row in weights.items()}}


def write_collapsed(model: Any, base: Path, weights: Weights, work: Path, way: Way) -> dict[str, Any]:
    """Write `work/model` from mean gates; returns what there is to say of the way."""
    from adapt.mixture.bottleneck import parallel_layers
    from adapt.mixture.plain import write_channels

    if parallel_layers(model):
        if way.by != "average":
            raise AdaptError(
                f"'{way.by}' adds updates of the same weights, and domain adapters are channels beside each other; "
                "collapse them by average"
            )
        said = write_channels(model, base, weights, work / "model")
        _beside(base, work / "model")
        return said
    return _write_merged(model, base, weights, work, way)


def _write_merged(model: Any, base: Path, weights: Weights, work: Path, way: Way) -> dict[str, Any]:
    """A mixture of LoRA through the merge engine."""
    from merge.engine import write
    from merge.errors import MergeError
    from merge.planning import prepare

    try:
        if way.by == "svd":
            factored, lost = factored_sum(model, weights, way.rank)
            folders, said = (
                {"lora": write_factored(model, factored, base, work / "lora")},
                {"rank": way.rank, "lost": lost},
            )
        else:
            folders = scaled_adapters(model, weights, base, work / "scaled")
            said = {"density": way.density} if way.by == "ties" else {}
        write(prepare(_expression(way, folders), {BASE: base, **folders}), work / "model")
    except MergeError as error:
        raise AdaptError(str(error)) from error
    _beside(base, work / "model")
    if way.by == "svd":
        (work / "lora").rename(work / "model" / "adapter")
    return said


def _expression(way: Way, folders: Mapping[str, Path]) -> str:
    if way.by == "ties":
        return f"ties({BASE}, [{', '.join(folders)}], density={way.density:g}, normalize=false)"
    return " + ".join((BASE, *folders))


def _beside(base: Path, folder: Path) -> None:
    """What else belongs to the base's vocabulary."""
    for name in ("adapt_vocabulary.json", "generation_config.json"):
        if (base / name).exists() and not (folder / name).exists():
            shutil.copyfile(base / name, folder / name)
