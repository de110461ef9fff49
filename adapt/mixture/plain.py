"""From bottlenecks beside the feed-forward layers to a plain checkpoint: exactly as channels, else by least squares."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from adapt.checkpoints import load_model
from adapt.errors import AdaptError
from adapt.methods.adapter import save_vocabulary
from adapt.methods.export import live_logits, measure, put_rows, write_plain
from adapt.mixture.bottleneck import FFN, ParallelFeedForward, parallel_layers
from adapt.mixture.feed_forward import Channels, FeedForward, extra, feed_forwards, widened, widened_config
from adapt.mixture.least_squares import absorbed

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
    parallel = parallel_layers(trained.model)
    base = load_model(trained.location, torch.float32)
    state, config = base.state_dict(), None
    if (folder / "adapter").exists():
        save_vocabulary(trained, state, folder / "adapter")
    layers = feed_forwards(trained.model)
    if form_of(parallel) == FFN:
        channels = {name: channels_of(layer, (weights or {}).get(name)) for name, layer in parallel.items()}
        state = widened(state, layers, channels)
        config = widened_config(base.config, extra(channels))
        how: dict[str, Any] = {"form": "channels", "added": extra(channels)}
    else:
        changes, lost = absorbed(trained.model, layers, parallel, trained.model.adapt_batches)
        state, how = added(state, changes, layers), {"form": "least_squares", "lost": lost}
    difference, logits = write_plain(put_rows(state, trained), trained, folder / "model", config)
    return {"reload_difference": difference, "merge": {"written": measure(expected, logits)}, "dense": how}


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


def added(
    state: Mapping[str, torch.Tensor], changes: Mapping[str, torch.Tensor], layers: tuple[FeedForward, ...]
) -> dict[str, torch.Tensor]:
    """A state with changes `[hidden, channels]` of the last projection of some layers added in float32."""
    result = dict(state)
    for layer in layers:
        if layer.name in changes:
            name, change = f"{layer.name}.{layer.down}.weight", changes[layer.name]
            result[name] = result[name].float() + (change.T if layer.transposed else change)
    return result


def write_channels(model: Any, base: Path, weights: Weights, folder: Path) -> dict[str, Any]:
    """Write the plain model in `base` with all bottlenecks of `model` as channels, in the base's own format.

    Raises AdaptError where the bottlenecks are no channels.
    """
    from adapt.checkpoints import ModelLocation, load_config, load_tokenizer, save_checkpoint

    parallel, location = parallel_layers(model), ModelLocation(str(base))
    if form_of(parallel) != FFN:
        raise AdaptError(
            f"bottlenecks with activation '{form_of(parallel)}' are no channels of the feed-forward layers, so their "
            "mixture has no plain form with fixed gates; distil it"
        )
    channels = {name: channels_of(layer, weights.get(name)) for name, layer in parallel.items()}
    plain, dtype = load_model(location, torch.float32), load_config(location).dtype or torch.float32
    state = widened(plain.state_dict(), feed_forwards(plain), channels)
    written = type(plain)._from_config(widened_config(plain.config, extra(channels)), dtype=torch.float32)
    written.generation_config = plain.generation_config
    written.load_state_dict(state)
    written.tie_weights()
    save_checkpoint(written.to(dtype), load_tokenizer(location), folder)
    return {"channels": extra(channels)}
