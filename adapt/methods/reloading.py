"""The proof that a written checkpoint loads as it was written, and its logits, with no more of it in memory than once.

The checkpoint is loaded in the format in which it is stored. Products are taken in float32 all the same: each module's
weights are widened while it computes, and put back.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import xxhash
from torch import nn

from adapt.checkpoints import ModelLocation, load_model
from adapt.errors import AdaptError

_TOLERANCE = 2e-3
"""How far logits may be apart, relative to the largest."""


@contextmanager
def in_float32(model: nn.Module) -> Iterator[None]:
    """Let a model of another format compute in float32, one module's own weights at a time."""
    narrow: dict[int, list[dict[str, nn.Parameter]]] = {}

    def widen(module: nn.Module, _: Any) -> None:
        own = dict(module.named_parameters(recurse=False))
        narrow.setdefault(id(module), []).append(own)
        for name, parameter in own.items():
            module._parameters[name] = nn.Parameter(parameter.detach().float(), requires_grad=False)

    def put_back(module: nn.Module, _: Any, __: Any) -> None:
        module._parameters.update(narrow[id(module)].pop())

    hooks = []
    for module in model.modules():
        if any(parameter.dtype != torch.float32 for parameter in module.parameters(recurse=False)):
            hooks += [module.register_forward_pre_hook(widen), module.register_forward_hook(put_back, always_call=True)]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def logits_of(model: Any, ids: torch.Tensor) -> torch.Tensor:
    """Logits `[n, t, V]` of a plain model on token ids `[n, t]`, computed and given in float32."""
    with torch.inference_mode(), in_float32(model):
        return model.eval()(input_ids=ids, use_cache=False).logits.float()


def loaded_logits(folder: Path, ids: torch.Tensor) -> torch.Tensor:
    """Logits of a checkpoint as transformers loads it, in the stored format."""
    return logits_of(load_model(ModelLocation(str(folder))), ids)


def proven_logits(folder: Path, hashes: Mapping[str, str], ids: torch.Tensor) -> tuple[float, torch.Tensor]:
    """The same, and their largest difference from those of the tensors as they were written (design rule 10).

    The loaded model is filled again, tensor by tensor, from the files, past every step that a loader takes; `hashes`
    are those of the tensors when they were computed. Raises AdaptError for other bytes on the disk, for a tensor that
    the model has not, and where logits differ.
    """
    model = load_model(ModelLocation(str(folder)))
    logits = logits_of(model, ids)
    _fill(model, folder, hashes)
    again = logits_of(model, ids)
    return _difference(folder, logits, again), logits


def reload_difference(folder: Path, model: Any, ids: torch.Tensor) -> float:
    """The largest difference between the logits of a written checkpoint and those of the model in memory.

    Raises AdaptError where they differ by more than rounding.
    """
    return _difference(folder, loaded_logits(folder, ids), logits_of(model, ids))


def _difference(folder: Path, logits: torch.Tensor, expected: torch.Tensor) -> float:
    difference, limit = float((logits - expected).abs().max()), _TOLERANCE * max(1.0, float(expected.abs().max()))
    if not difference <= limit:
        raise AdaptError(
            f"the checkpoint written to '{folder}' does not load back as it was: logits differ by {difference:.3g} "
            f"(allowed {limit:.3g})"
        )
    return difference


def _fill(model: Any, folder: Path, hashes: Mapping[str, str]) -> None:
    from merge.checkpoint import Checkpoint

    written, state = Checkpoint("written", folder), model.state_dict(keep_vars=True)
    try:
        for name, info in written.tensors.items():
            tensor = torch.empty(info.shape, dtype=info.dtype)
            data = memoryview(tensor.reshape(-1).view(torch.uint8).numpy())
            written.read(name, 0, data)
            if xxhash.xxh3_128_hexdigest(data) != hashes[name]:
                raise AdaptError(f"'{folder}': '{name}' has other bytes on the disk than were written; is it full?")
            if name not in state or state[name].shape != tensor.shape:
                raise AdaptError(f"'{folder}': transformers loads no tensor '{name}' of shape {list(info.shape)}")
            state[name].data.copy_(tensor)
    finally:
        written.close()
