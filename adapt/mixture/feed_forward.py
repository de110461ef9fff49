"""The feed-forward layers of a decoder: where they are, what form they have, and how they take more channels.

    gated    W_down (act(W_gate x) * W_up x)      Llama, Mistral, Qwen, Gemma
    plain    W_down act(W_up x + b) + c           GPT-2, GPT-NeoX, Phi

A bottleneck of the same form and activation, beside such a layer, is nothing but more channels of it: its rows are
appended to W_gate and W_up, its columns to W_down. So it can be written into a plain checkpoint exactly, with a larger
`intermediate_size`. All layers of a checkpoint have one size; where there is less to append, channels of zeros are.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import nn

from adapt.errors import AdaptError
from adapt.mixture.rewriting import Change

_FORMS = (
    ("gate_proj", "up_proj", "down_proj"),
    (None, "fc1", "fc2"),
    (None, "dense_h_to_4h", "dense_4h_to_h"),
    (None, "c_fc", "c_proj"),
)
_ACTIVATIONS = ("act_fn", "activation_fn", "act")
_SIZES = ("intermediate_size", "n_inner")
INSIDE = ".ffn"
"""Behind the name of a layer that bottlenecks were put beside; its name in the plain model is without."""


@dataclass(frozen=True)
class FeedForward:
    """One feed-forward layer: its place in the plain model, and the names of its projections (maybe without `gate`).

    `transposed` says that weights stand as `[in, out]` (GPT-2's Conv1D).
    """

    name: str
    module: nn.Module
    gate: str | None
    up: str
    down: str
    transposed: bool

    @property
    def activation(self) -> Any:
        """The function between the projections."""
        return next(getattr(self.module, name) for name in _ACTIVATIONS if hasattr(self.module, name))

    @property
    def has_bias(self) -> bool:
        """Whether the channels have a bias."""
        return getattr(self.module, self.up).bias is not None

    @property
    def device(self) -> torch.device:
        """Where its weights are."""
        return getattr(self.module, self.down).weight.device


class Channels(NamedTuple):
    """Channels to append, float32: `up` and `gate` `[n, hidden]`, `bias [n]` (of up), `down [hidden, n]`."""

    up: torch.Tensor
    down: torch.Tensor
    gate: torch.Tensor | None = None
    bias: torch.Tensor | None = None


def feed_forwards(model: Any) -> tuple[FeedForward, ...]:
    """The feed-forward layers, one for each block, in order. Raises AdaptError for an architecture without."""
    found = []
    for name, module in model.named_modules():
        form = _form_of(module)
        if form is not None and "expert" not in name:
            transposed = not hasattr(getattr(module, form[1]), "in_features")
            found.append(FeedForward(name.removesuffix(INSIDE), module, *form, transposed))
    config = model.config.get_text_config()
    if len(found) != config.num_hidden_layers:
        raise AdaptError(
            f"{len(found)} of the {config.num_hidden_layers} blocks of '{config.model_type}' have a feed-forward layer "
            "of a form known here (gate_proj, up_proj, down_proj, or two linear layers); use a mixture of LoRA"
        )
    return tuple(found)


def _form_of(module: nn.Module) -> tuple[str | None, str, str] | None:
    for form in _FORMS:
        if all(hasattr(getattr(module, name, None), "weight") for name in form if name):
            return form if any(hasattr(module, name) for name in _ACTIVATIONS) else None
    return None


def widening(layers: Sequence[FeedForward], channels: Mapping[str, Channels]) -> dict[str, Change]:
    """What becomes of a plain model's tensors when channels are appended to the layers that `channels` names.

    Every layer gets as many as the one with the most, the others' are zeros, so the sums of all layers stay what they
    are. The result belongs to `widened_config`.
    """
    count = extra(channels)
    changes: dict[str, Change] = {}
    for layer in layers:
        given = channels.get(layer.name)
        parts = {layer.up: given and given.up, **({layer.gate: given and given.gate} if layer.gate else {})}
        for name, rows in parts.items():
            changes[f"{layer.name}.{name}.weight"] = _appended(rows, count, 1 if layer.transposed else 0)
            if getattr(getattr(layer.module, name), "bias", None) is not None:
                bias = given.bias if given is not None and name == layer.up else None
                changes[f"{layer.name}.{name}.bias"] = _appended_values(bias, count)
        columns = None if given is None else given.down.T
        changes[f"{layer.name}.{layer.down}.weight"] = _appended(columns, count, 0 if layer.transposed else 1)
    return changes


def extra(channels: Mapping[str, Channels]) -> int:
    """The number of channels by which every layer grows."""
    return max((len(entry.up) for entry in channels.values()), default=0)


def _appended(parts: torch.Tensor | None, count: int, dimension: int) -> Change:
    """Put `parts [n, width]`, filled up to `count` with zeros, behind the rows (0) or columns (1) of a weight."""

    def of(weight: torch.Tensor) -> torch.Tensor:
        filled = torch.zeros(count, weight.shape[1 - dimension])
        if parts is not None:
            filled[: len(parts)] = parts.cpu()
        return torch.cat([weight, filled if dimension == 0 else filled.T], dimension)

    return Change(of, (count, 0) if dimension == 0 else (0, count))


def _appended_values(values: torch.Tensor | None, count: int) -> Change:
    """The same for a bias `[n]`."""
    filled = torch.zeros(count)
    if values is not None:
        filled[: len(values)] = values.float().cpu()
    return Change(lambda bias: torch.cat([bias, filled]), (count,))


def widened_config(config: Any, count: int) -> Any:
    """A copy of a configuration whose feed-forward layers have `count` channels more."""
    import copy

    config = copy.deepcopy(config)
    text = config.get_text_config()
    key = next(name for name in _SIZES if hasattr(text, name))
    size = getattr(text, key) or 4 * text.hidden_size
    if not isinstance(size, int):
        raise AdaptError(f"the feed-forward layers of '{text.model_type}' differ in size; they cannot grow together")
    setattr(text, key, size + count)
    return config
