"""Bottlenecks put beside the feed-forward layers of a model, in place."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from adapt.errors import AdaptError
from adapt.mixture.bottleneck import Form, ParallelFeedForward, Units
from adapt.mixture.feed_forward import FeedForward, feed_forwards
from adapt.mixture.routing import Routing


def chosen_layers(wanted: Sequence[int], count: int) -> list[int]:
    """The layers that are meant, counted from 0 or, below it, from the end; by default as published.

    Diao et al. take 7 and 11 of 12: the one after seven twelfths of the depth, and the last.
    """
    if not wanted:
        return sorted({7 * count // 12, count - 1})
    for layer in wanted:
        if not -count <= layer < count:
            raise AdaptError(f"layers: there is no layer {layer}; the model has {count}, 0 to {count - 1}")
    return sorted({layer % count for layer in wanted})


def freeze(model: Any) -> None:
    """Nothing of a model trains."""
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    model.is_quantized = False  # else a trainer, which knows only peft's adapters, takes it for one that cannot train


def insert_adapter(model: Any, name: str, layers: Sequence[int], width: int, activation: str, routing: Routing) -> None:
    """Put one new adapter, which is zero at first, beside the layers of a frozen model."""
    found = feed_forwards(model)
    for index in chosen_layers(layers, len(found)):
        units = units_beside(model, found[index], {name: width}, activation)
        model.set_submodule(found[index].name, ParallelFeedForward(found[index].module, routing, units))


def units_beside(model: Any, layer: FeedForward, widths: Mapping[str, int], activation: str) -> Units:
    """New units for one layer, on its device."""
    hidden = model.config.get_text_config().hidden_size
    return Units(widths, hidden, Form.of(activation, layer), layer.device)
