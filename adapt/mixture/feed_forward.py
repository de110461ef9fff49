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


def widened(
    state: Mapping[str, torch.Tensor], layers: Sequence[FeedForward], channels: Mapping[str, Channels]
) -> dict[str, torch.Tensor]:
    """A plain model's state with channels appended to the feed-forward layers that `channels` names, in float32.

    Every layer gets as many as the one with the most, the others' are zeros, so the sums of all layers stay what they
    are. The state belongs to `widened_config`.
    """
    count = extra(channels)
    result = dict(state)
    for layer in layers:
        given = channels.get(layer.name)
        hidden = result[f"{layer.name}.{layer.down}.weight"].shape[1 if layer.transposed else 0]
        given = given if given is not None else Channels(torch.zeros(0, hidden), torch.zeros(hidden, 0))
        parts = {layer.up: given.up, **({layer.gate: given.gate} if layer.gate else {})}
        for name, rows in parts.items():
            rows = torch.zeros(0, hidden) if rows is None else rows
            _append(result, f"{layer.name}.{name}", rows, count, rows_of=not layer.transposed)
        _append(result, f"{layer.name}.{layer.down}", given.down.T, count, rows_of=layer.transposed)
        for name in parts:
            _append_bias(result, f"{layer.name}.{name}.bias", given.bias if name == layer.up else None, count)
    return result


def extra(channels: Mapping[str, Channels]) -> int:
    """The number of channels by which every layer grows."""
    return max((len(entry.up) for entry in channels.values()), default=0)


def _append(state: dict[str, torch.Tensor], module: str, parts: torch.Tensor, count: int, rows_of: bool) -> None:
    """Put `parts [n, width]`, filled up to `count` with zeros, behind the rows (or columns) of a weight."""
    weight = state[f"{module}.weight"].float()
    filled = torch.cat([parts.float().cpu(), torch.zeros(count - len(parts), parts.shape[1])])
    state[f"{module}.weight"] = torch.cat([weight, filled if rows_of else filled.T], 0 if rows_of else 1).contiguous()


def _append_bias(state: dict[str, torch.Tensor], name: str, bias: torch.Tensor | None, count: int) -> None:
    if name not in state:
        return
    given = torch.zeros(0) if bias is None else bias.float().cpu()
    state[name] = torch.cat([state[name].float(), given, torch.zeros(count - len(given))])


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
