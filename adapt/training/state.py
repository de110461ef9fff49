"""The state of a run on disk: complete or absent, safetensors and JSON only, nothing that has to be unpickled.

A checkpoint is a folder `checkpoint-N` with

    weights.safetensors     every parameter that trains, by name, in float32
    optimizer.safetensors   the optimiser's tensors, `<index>/<name>`
    random.safetensors      the generators of torch, CUDA, numpy and Python; `random-N` those of process N
    state.json              step, progress, the optimiser's numbers, and a digest of each other file

It is written under another name, flushed to the disk, and renamed; a folder whose digests do not fit is not used.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy
import torch
from safetensors.torch import load_file, save_file
from transformers import set_seed

from adapt.checkpoints import read_json
from adapt.errors import AdaptError
from adapt.training.parts import split_like

PREFIX = "checkpoint-"
_TENSOR = "tensor"
"""In the JSON part, `{"tensor": path}` stands for a tensor of the safetensors part."""


def sync(path: Path) -> None:
    """Flush a file or a folder's entries to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def digest(path: Path) -> str:
    """BLAKE2 of a file, read in pieces."""
    value = hashlib.blake2b(digest_size=16)
    with path.open("rb") as file:
        while piece := file.read(1 << 22):
            value.update(piece)
    return value.hexdigest()


def write_folder(folder: Path, fill: Callable[[Path], None]) -> None:
    """Let `fill` write into a folder of another name, flush everything, and rename it to `folder`, replacing it."""
    partial = folder.with_name(f".{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        fill(partial)
    except OSError as error:
        shutil.rmtree(partial, ignore_errors=True)
        raise AdaptError(
            f"cannot write '{folder}': {error.strerror or error}; what was finished before is kept"
        ) from error
    for path in sorted(partial.iterdir()):
        sync(path)
    sync(partial)
    shutil.rmtree(folder, ignore_errors=True)
    os.replace(partial, folder)
    sync(folder.parent)


def save_tensors(tensors: Mapping[str, torch.Tensor], path: Path) -> None:
    """Safetensors of copies on the CPU (shared storage, as in 8-bit optimisers' tables, is written out)."""
    save_file({name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}, path)


def random_states() -> dict[str, torch.Tensor]:
    """The state of every generator that training may draw from."""
    version, words, gauss = random.getstate()
    _name, keys, position, has_gauss, cached = numpy.random.get_state()
    states = {
        "torch": torch.get_rng_state(),
        "python": torch.tensor([version, *words], dtype=torch.int64),
        "python_gauss": torch.tensor([] if gauss is None else [gauss], dtype=torch.float64),
        "numpy": torch.tensor([*keys.tolist(), position, has_gauss], dtype=torch.int64),
        "numpy_gauss": torch.tensor([cached], dtype=torch.float64),
    }
    if torch.cuda.is_available():
        states |= {f"cuda.{index}": state for index, state in enumerate(torch.cuda.get_rng_state_all())}
    return states


def set_random_states(states: Mapping[str, torch.Tensor]) -> None:
    """Put every generator back to a state from `random_states`."""
    torch.set_rng_state(states["torch"])
    version, *words = states["python"].tolist()
    gauss = states["python_gauss"].tolist()
    random.setstate((version, tuple(words), gauss[0] if gauss else None))
    *keys, position, has_gauss = states["numpy"].tolist()
    legacy = ("MT19937", numpy.array(keys, dtype=numpy.uint32), position, has_gauss, states["numpy_gauss"].item())
    numpy.random.set_state(legacy)
    if torch.cuda.is_available():
        for index in range(torch.cuda.device_count()):
            if f"cuda.{index}" in states:  # else the state comes from a machine with fewer of them
                torch.cuda.set_rng_state(states[f"cuda.{index}"], index)


def optimizer_parts(state: Mapping[str, Any]) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """An optimiser's state dict as tensors for safetensors, and the numbers beside them for JSON.

    A tensor's name is its path in the state, `<index>/<name>`; bitsandbytes has one more level.
    """
    tensors: dict[str, torch.Tensor] = {}

    def take(value: Any, path: str) -> Any:
        if isinstance(value, torch.Tensor):
            tensors[path] = value
            return {_TENSOR: path}
        if isinstance(value, Mapping):
            return {str(name): take(entry, f"{path}/{name}") for name, entry in value.items()}
        return value

    numbers = {str(index): take(entries, str(index)) for index, entries in state["state"].items()}
    return tensors, {"state": numbers, "param_groups": state["param_groups"]}


def optimizer_state(tensors: Mapping[str, torch.Tensor], numbers: Mapping[str, Any]) -> dict[str, Any]:
    """The state dict from which `optimizer_parts` made its two parts."""

    def put(value: Any) -> Any:
        if not isinstance(value, Mapping):
            return value
        return tensors[value[_TENSOR]] if _TENSOR in value else {name: put(entry) for name, entry in value.items()}

    return {
        "state": {int(index): put(entries) for index, entries in numbers["state"].items()},
        "param_groups": numbers["param_groups"],
    }


def write_state(
    folder: Path,
    weights: Mapping[str, torch.Tensor],
    optimizer: Mapping[str, Any],
    numbers: Mapping[str, Any],
    extra: Callable[[Path], None] = lambda folder: None,
) -> None:
    """Write one complete state to `folder`. `numbers` are plain JSON, for `read_state`; `extra` may add files."""
    tensors, optimizer_numbers = optimizer_parts(optimizer)

    def fill(partial: Path) -> None:
        save_tensors(weights, partial / "weights.safetensors")
        save_tensors(tensors, partial / "optimizer.safetensors")
        save_tensors(random_states(), partial / "random.safetensors")
        extra(partial)
        digests = {path.name: digest(path) for path in sorted(partial.iterdir())}
        whole = {**numbers, "optimizer": optimizer_numbers, "files": digests}
        (partial / "state.json").write_text(json.dumps(whole, indent=1), encoding="utf-8")

    write_folder(folder, fill)


def is_complete(folder: Path) -> bool:
    """Whether every file that the state lists is there and unchanged."""
    try:
        files = json.loads((folder / "state.json").read_text(encoding="utf-8"))["files"]
        return all(digest(folder / name) == value for name, value in files.items())
    except (OSError, ValueError, KeyError):
        return False


def read_state(folder: Path) -> dict[str, Any]:
    """The JSON part of a state. Raises AdaptError where it is missing or broken."""
    return read_json(folder / "state.json")


def read_optimizer(folder: Path) -> dict[str, Any]:
    """The optimiser's state dict."""
    return optimizer_state(load_file(folder / "optimizer.safetensors"), read_state(folder)["optimizer"])


def lay_out(optimizer: torch.optim.Optimizer) -> None:
    """Let moments lie in memory as their parameters do, as they did before they were written row by row: kernels may
    round otherwise over two orders, and those of bitsandbytes know one only."""
    for parameter, moments in optimizer.state.items():
        for name, value in moments.items():
            like = isinstance(value, torch.Tensor) and value.shape == parameter.shape
            if like and value.stride() != parameter.stride():
                moments[name] = torch.empty_like(parameter, dtype=value.dtype, device=value.device).copy_(value)


def load_weights(folder: Path, parameters: Mapping[str, torch.nn.Parameter]) -> None:
    """Copy the stored weights into `parameters`. Raises AdaptError where the names or shapes differ."""
    stored = load_file(folder / "weights.safetensors")
    if stored.keys() != parameters.keys():
        odd = sorted(stored.keys() ^ parameters.keys())[0]
        raise AdaptError(f"the state in '{folder}' does not fit what this stage trains: '{odd}' is only on one side")
    for name, parameter in parameters.items():
        if stored[name].shape != parameter.shape:
            raise AdaptError(
                f"the state in '{folder}' has '{name}' as {list(stored[name].shape)}, "
                f"this stage trains it as {list(parameter.shape)}"
            )
        with torch.no_grad():
            parameter.copy_(split_like(stored[name], parameter))


def random_file(folder: Path, rank: int) -> Path:
    """Where the generators of one process are."""
    return folder / (f"random-{rank}.safetensors" if rank else "random.safetensors")


def load_random(folder: Path, rank: int = 0, seed: int = 0) -> None:
    """Put the generators back to where they stood when the state was written.

    A process that was not there then begins with numbers of its own.
    """
    path = random_file(folder, rank)
    if path.exists():
        set_random_states(load_file(path))
    else:
        own_random(seed + read_state(folder)["step"], rank)


def own_random(seed: int, rank: int) -> None:
    """Let the generators of one of several processes begin apart from the others'."""
    words = numpy.random.SeedSequence([seed, rank]).generate_state(1)
    set_seed(int(words[0]))


def states_in(folder: Path) -> list[Path]:
    """The states `checkpoint-N` in a folder, oldest first, whether they are complete or not."""
    found = [path for path in folder.glob(f"{PREFIX}*") if path.name[len(PREFIX) :].isdigit()]
    return sorted(found, key=lambda path: int(path.name[len(PREFIX) :]))


def newest_state(folder: Path, say: Callable[[str], None]) -> Path | None:
    """The newest complete state, or None. What a kill left half-written or a disk damaged is removed with a line."""
    for partial in folder.glob(f".{PREFIX}*.partial"):
        say(f"removed '{partial.name}', which was never finished")
        shutil.rmtree(partial, ignore_errors=True)
    for path in reversed(states_in(folder)):
        if is_complete(path):
            return path
        say(f"removed '{path.name}', whose files are damaged")
        shutil.rmtree(path, ignore_errors=True)
    return None


def keep_newest(folder: Path, count: int) -> None:
    """Remove all but the newest `count` states."""
    for path in states_in(folder)[:-count]:
        shutil.rmtree(path, ignore_errors=True)
