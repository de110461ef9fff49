"""Writing a merge: every tensor is read, combined and written block by block, several tensors at once."""

from __future__ import annotations

import json
import math
import os
import shutil
import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from merge.demand import threads_for
from merge.device import Outlet, own_stream
from merge.errors import MergeError
from merge.hashes import Hashes, Running, fingerprint
from merge.journal import BusyError, Journal
from merge.operands import LeafOperand, operand
from merge.parallel import single_threaded_torch
from merge.planning import Merge
from merge.policy import write_config, write_tokenizer
from merge.provenance import describe, licence, model_card
from merge.writer import Output, ShardWriter, shards, write_index

SHARD_SIZE = 5 * 10**9
"""Bytes of tensors in one file of the output."""
Progress = Callable[[int, int], None]


def write(
    merge: Merge,
    folder: str | Path,
    shard_size: int = SHARD_SIZE,
    progress: Progress | None = None,
    threads: int | None = None,
    beside: Mapping[str, str] | None = None,
    device: torch.device | None = None,
) -> dict[str, Any]:
    """Write the merged checkpoint to `folder`, which appears whole or not at all, and return what was decided.

    Sums are taken in float32 (float64 where an input of a plain sum is float32) and rounded once. The bytes do not
    depend on the number of `threads` (default: one for each core; fewer where that many would hold too much) or the
    size of shards. A merge that was killed goes
    on where it stopped when it is written again. `progress` is told the bytes done and in all; `beside` are further
    files by name, with their text. `device` (default: the plan's) is where blocks are computed: on a GPU what is
    random is drawn alike, and sums differ by rounding. Raises MergeError where `folder` holds something already, for
    too little space, for NaN or infinity in an input, and for a result that the output's type cannot hold.
    """
    merge, folder = merge if device is None else replace(merge, device=device), Path(folder)
    check_output(merge, folder)
    place = unfinished(folder)
    files = shards(merge.outputs, shard_size)
    try:
        with Journal(place, merge.key(files)) as journal:
            for name, text in {**merge.beside.files, **(beside or {})}.items():
                (place / name).write_text(text, encoding="utf-8")
            decisions = _write_all(merge, place, files, journal, progress, threads)
    except BusyError:
        raise
    except (MergeError, OSError) as error:
        shutil.rmtree(place, ignore_errors=True)
        if isinstance(error, OSError):
            raise MergeError(f"cannot write '{folder}': {error.strerror or error}") from error
        raise
    if folder.exists():
        folder.rmdir()
    os.replace(place, folder)
    return decisions


def unfinished(folder: Path) -> Path:
    """Where a merge lies until it is whole: beside its folder, hidden."""
    return folder.with_name(f".{folder.name}.partial")


def check_output(merge: Merge, folder: Path) -> None:
    """Raise MergeError where `folder` is not empty or its disk is too full."""
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise MergeError(f"'{folder}' is not empty; give a new folder, so that no stale file stays beside the result")
    free, needed = free_space(folder), merge.size
    if free < needed and not unfinished(folder).exists():
        unit, factor = ("GB", 1e9) if needed >= 1e8 else ("MB", 1e6)
        raise MergeError(
            f"'{folder}' needs {needed / factor:.1f} {unit}, but only {free / factor:.1f} {unit} are free there; "
            "free some space or give another folder"
        )


def free_space(folder: Path) -> int:
    """Bytes that are free where a folder is, or is to be."""
    home = folder.absolute()
    while not home.exists():
        home = home.parent
    return shutil.disk_usage(home).free


def _write_all(
    merge: Merge,
    place: Path,
    files: Mapping[str, list[Output]],
    journal: Journal,
    progress: Progress | None,
    threads: int | None,
) -> dict[str, Any]:
    writers = {name: ShardWriter(place / name, outputs) for name, outputs in files.items()}
    owner = {output.name: writers[name] for name, outputs in files.items() for output in outputs}
    hashes = Hashes()
    try:
        written = _write_weights(merge, owner, journal, hashes, progress, threads)
        for writer in writers.values():
            writer.sync()
    finally:
        for writer in writers.values():
            writer.close()
    write_index(place, files)
    decisions = _write_settings(merge, place, written, _inputs(merge, hashes))
    journal.remove()
    _force_to_disk(place)
    return decisions


def _write_weights(
    merge: Merge,
    owner: Mapping[str, ShardWriter],
    journal: Journal,
    hashes: Hashes,
    progress: Progress | None,
    threads: int | None,
) -> dict[str, str]:
    """Write the tensors that the journal does not list, the largest first; returns each tensor's hash."""
    done = journal.finished(owner)
    left = sorted((o for o in merge.outputs if o.name not in done), key=lambda output: -output.size)
    total = merge.size
    count = sum(output.size for output in merge.outputs if output.name in done)
    written = dict(done)
    stop = threading.Event()
    with single_threaded_torch(), ThreadPoolExecutor(threads_for(merge, left, threads)) as pool:
        tasks = {pool.submit(write_tensor, merge, output, owner[output.name], hashes, stop): output for output in left}
        try:
            for task in as_completed(tasks):
                output = tasks[task]
                written[output.name] = task.result()
                journal.add(output.name, written[output.name])
                count += output.size
                if progress is not None:
                    progress(count, total)
        except BaseException:
            stop.set()
            pool.shutdown(cancel_futures=True)
            raise
    return written


def write_tensor(merge: Merge, output: Output, writer: ShardWriter, hashes: Hashes, stop: threading.Event) -> str:
    """Combine and write one tensor; returns the hash of what was written."""
    running = Running(output.size)
    with own_stream(merge.device):
        for place, block in merged(merge, output, hashes):
            if stop.is_set():
                break
            data = memoryview(block.reshape(-1).view(torch.uint8).numpy())
            writer.write(output.name, place, data)
            running.update(place, data)
    return running.state.hexdigest()


def merged(merge: Merge, output: Output, hashes: Hashes | None = None) -> Iterator[tuple[int, torch.Tensor]]:
    """One tensor of the result block by block: each block's first byte and the block, in the type of the output.

    Blocks are computed on the merge's device and given in host memory.
    """
    if not output.dtype.is_floating_point:
        yield 0, _copied(merge, output)
        return
    target, inputs = merge.target(output), merge.inputs(output, hashes)
    result = operand(merge.parts[output.name].formula, target, inputs)
    sources = {name: LeafOperand(name, target, inputs) for name in _row_sources(merge)} if target.by_token else {}
    outlet = Outlet(min(target.step, target.height) * target.width, output.dtype, merge.device)
    for first, last in target.cuts():
        block = result.rows(first, last)
        if target.by_token:
            _set_rows(block, result.known(first, last), sources, merge, first, last)
        rounded = block.to(output.dtype)
        if not finite(rounded):
            raise _not_finite(merge, output)
        yield first * target.width * output.dtype.itemsize, outlet(rounded)


def finite(values: torch.Tensor) -> bool:
    """Whether no element is NaN or infinite; a sum that is finite says so, one that is not may just be too large."""
    if math.isfinite(float(values.sum())):
        return True
    low, high = values.aminmax()
    return float(low) > -math.inf and float(high) < math.inf  # both are NaN where one element is


def _row_sources(merge: Merge) -> tuple[str, ...]:
    special = (merge.roles.special_from,) if merge.roles.special_from else ()
    return tuple(dict.fromkeys((merge.roles.anchor, *special)))


def _set_rows(
    block: torch.Tensor,
    known: torch.Tensor | None,
    sources: Mapping[str, LeafOperand],
    merge: Merge,
    first: int,
    last: int,
) -> None:
    """Rows of no formula: those that nothing knows are the anchor's, special ones `special_from`'s."""
    if known is not None:
        block[~known] = sources[merge.roles.anchor].rows(first, last)[~known].to(block.dtype)
    chosen = merge.rows.exact[first:last]
    if merge.roles.special_from is not None and bool(chosen.any()):
        chosen = chosen.to(block.device)
        block[chosen] = sources[merge.roles.special_from].rows(first, last)[chosen].to(block.dtype)


def _copied(merge: Merge, output: Output) -> torch.Tensor:
    first = merge.anchor.tensor(output.name)
    for name in merge.roles.models[1:]:
        if not torch.equal(first, merge.checkpoints[name].tensor(output.name)):
            raise MergeError(
                f"'{output.name}' holds whole numbers that differ between '{merge.anchor.name}' and '{name}'"
            )
    return first


def _not_finite(merge: Merge, output: Output) -> MergeError:
    for name, tensor in merge.parts[output.name].names.items():
        if not all(map(finite, merge.checkpoints[name].tensor(tensor).view(-1).split(2**20))):
            return MergeError(f"'{name}' holds NaN or infinity in '{output.name}'; nothing was written")
    kind = str(output.dtype).removeprefix("torch.")
    return MergeError(f"the sum of '{output.name}' is too large for {kind}; choose dtype bfloat16 or float32")


def _inputs(merge: Merge, hashes: Hashes) -> dict[str, dict[str, Any]]:
    """Every input with its fingerprint; tensors that were not read in order are read again."""
    bases = (vector.base for vector in merge.adapters.values())
    sources = {name: merge.checkpoints[name] for name in dict.fromkeys((*merge.roles.models, *bases))}
    found = {}
    for name, model in (sources | {name: vector.adapter for name, vector in merge.adapters.items()}).items():
        tensors = {
            tensor: hashes.finish(
                name, tensor, info.size, lambda place, part, t=tensor, m=model: m.read(t, place, part)
            )
            for tensor, info in model.tensors.items()
        }
        found[name] = {
            "folder": str(model.folder),
            "fingerprint": fingerprint(tensors),
            "license": licence(model.folder),
        }
    return found


def _write_settings(merge: Merge, place: Path, written: Mapping[str, str], inputs: Mapping[str, Any]) -> dict[str, Any]:
    """Everything beside the weights."""
    types = {output.dtype for output in merge.outputs if output.dtype.is_floating_point}
    changes: dict[str, Any] = {"tie_word_embeddings": merge.tied, **merge.beside.config}
    if len(types) == 1:
        key = "torch_dtype" if "torch_dtype" in merge.anchor.config else "dtype"
        changes[key] = str(types.pop()).removeprefix("torch.")
    chat = (merge.chat, merge.vocabularies[merge.chat.name])
    write_config(place, merge.anchor, chat, merge.rows, changes)
    write_tokenizer(place, merge.tokenizer, merge.chat, merge.rows, merge.beside.template)
    decisions = describe(merge)
    record = decisions | {
        "inputs": inputs,
        "output": {"fingerprint": fingerprint(written), "tensors": dict(sorted(written.items()))},
    }
    (place / "merge.json").write_text(json.dumps(record, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    (place / "README.md").write_text(model_card(record), encoding="utf-8")
    return record


def _force_to_disk(folder: Path) -> None:
    for path in (*folder.iterdir(), folder):
        handle = os.open(path, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
