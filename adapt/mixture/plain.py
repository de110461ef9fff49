"""From bottlenecks beside the feed-forward layers to a plain checkpoint: exactly as channels, else by least squares."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from adapt.checkpoints import ModelLocation, load_config, load_tokenizer
from adapt.errors import AdaptError
from adapt.methods.adapter import save_vocabulary
from adapt.methods.export import live_logits, measure
from adapt.methods.streaming import Stored, check_names
from adapt.mixture.bottleneck import FFN, ParallelFeedForward, parallel_layers
from adapt.mixture.feed_forward import Channels, FeedForward, extra, feed_forwards, widened_config, widening
from adapt.mixture.least_squares import absorbed
from adapt.mixture.rewriting import Change, rewrite, write_changed
from merge.checkpoint import Checkpoint
from merge.errors import MergeError

if TYPE_CHECKING:
    from adapt.methods.base import Trained

Weights = Mapping[str, Mapping[str, float]]
"""For each layer the weight of each adapter."""


def write_dense(trained: Trained, folder: Path, weights: Weights | None = None) -> dict[str, Any]:
    """Write `folder/model`, with every adapter times its weight, and measure it beside the model as it trained.

    Returns `reload_difference`, `merge.written`, and `dense`: how it was made (`channels` or `least_squares`) and by
    how many channels it grew, or what share of the adapters' output is lost.
    """
    expected = live_logits(trained)
    parallel, layers = parallel_layers(trained.model), feed_forwards(trained.model)
    if (folder / "adapter").exists():
        save_vocabulary(trained, Stored(trained.location), folder / "adapter")
    config = None
    if form_of(parallel) == FFN:
        channels = {name: channels_of(layer, (weights or {}).get(name)) for name, layer in parallel.items()}
        changes = widening(layers, channels)
        config = widened_config(load_config(trained.location), extra(channels))
        how: dict[str, Any] = {"form": "channels", "added": extra(channels)}
    else:
        found, lost = absorbed(trained.model, layers, parallel, trained.model.adapt_batches)
        changes, how = added(found, layers), {"form": "least_squares", "lost": lost}
    proof, logits = write_changed(trained, changes, folder / "model", config)
    return proof | {"merge": {"written": measure(expected, logits)}, "dense": how}


def form_of(parallel: Mapping[str, ParallelFeedForward]) -> str:
    """The activation that all bottlenecks of a model have."""
    first = next(iter(parallel.values()))
    return (first.domains if first.domains is not None else first.task).form.activation


def channels_of(layer: ParallelFeedForward, weights: Mapping[str, float] | None = None) -> Channels:
    """All bottlenecks beside one layer as its channels; domains times their weights, the task adapter whole."""
    parts = [] if layer.domains is None else [layer.domains.channels(weights)]
    parts += [] if layer.task is None else [layer.task.channels()]

    def stacked(name: str, dimension: int) -> torch.Tensor | None:
        found = [getattr(part, name) for part in parts]
        return None if found[0] is None else torch.cat(found, dimension)

    return Channels(stacked("up", 0), stacked("down", 1), stacked("gate", 0), stacked("bias", 0))


def added(changes: Mapping[str, torch.Tensor], layers: tuple[FeedForward, ...]) -> dict[str, Change]:
    """Changes `[hidden, channels]` of the last projection of some layers, to be added in float32."""

    def plus(layer: FeedForward, change: torch.Tensor) -> Change:
        return Change(lambda weight: weight + (change.T if layer.transposed else change))

    present = (layer for layer in layers if layer.name in changes)
    return {f"{layer.name}.{layer.down}.weight": plus(layer, changes[layer.name]) for layer in present}


def write_channels(model: Any, base: Path, weights: Weights, folder: Path) -> dict[str, Any]:
    """Write the plain model in `base` with all bottlenecks of `model` as channels, in the base's own format.

    Raises AdaptError where the bottlenecks are no channels.
    """
    parallel, location = parallel_layers(model), ModelLocation(str(base))
    if form_of(parallel) != FFN:
        raise AdaptError(
            f"bottlenecks with activation '{form_of(parallel)}' are no channels of the feed-forward layers, so their "
            "mixture has no plain form with fixed gates; distil it"
        )
    channels = {name: channels_of(layer, weights.get(name)) for name, layer in parallel.items()}
    changes, source = widening(feed_forwards(model), channels), Checkpoint("base", base)
    try:
        check_names(source, model)
        rewrite(source, changes, folder)
    except MergeError as error:
        raise AdaptError(f"'{base}' cannot be written tensor by tensor: {error}; distil the mixture") from error
    widened_config(load_config(location), extra(channels)).save_pretrained(folder)
    load_tokenizer(location).save_pretrained(folder)
    return {"channels": extra(channels)}
