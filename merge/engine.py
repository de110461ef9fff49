"""A merge from an expression and folders to a new folder, streamed block by block."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from merge.checkpoint import DTYPES, Checkpoint
from merge.errors import MergeError
from merge.expression import Combination, parse
from merge.methods.linear import task_arithmetic
from merge.policy import chat_template, check_same_architecture, rope_warnings, write_config, write_tokenizer
from merge.roles import Roles, assign
from merge.vocabulary import RowPlan, Vocabulary, merged_rows, plan_rows, read_vocabulary
from merge.writer import Output, ShardWriter, shards, write_index

BLOCK = 2**18
"""Elements that are summed at once; so many, with their float32 copies, stay in a core's cache."""
SHARD_SIZE = 5 * 10**9
"""Bytes of tensors in one file of the output."""


@dataclass(frozen=True)
class Merge:
    """A merge that was checked from the inputs' headers and tokenizers alone, and can now be written or inspected."""

    combination: Combination
    checkpoints: Mapping[str, Checkpoint]
    vocabularies: Mapping[str, Vocabulary]
    roles: Roles
    rows: RowPlan
    outputs: tuple[Output, ...]
    warnings: tuple[str, ...]

    @property
    def anchor(self) -> Checkpoint:
        """The model whose vocabulary and configuration the output has."""
        return self.checkpoints[self.roles.anchor]

    @property
    def chat(self) -> Checkpoint:
        """The model whose chat tokens and template the output has."""
        return self.checkpoints[self.roles.special_from or self.roles.anchor]


def prepare(
    expression: str,
    folders: Mapping[str, Path],
    dtype: torch.dtype | None = None,
    vocabulary_from: str | None = None,
    special_from: str | None = None,
) -> Merge:
    """Check everything that can be checked before a tensor is read, and plan every tensor and every row.

    `folders` maps the expression's names to checkpoints; `dtype` is that of the output (default: the anchor's).
    Raises MergeError (ExpressionError for the text) with one line.
    """
    combination = parse(expression)
    missing = [name for name in combination.models if name not in folders]
    if missing:
        raise MergeError(f"'{expression}' names '{missing[0]}', but no folder is given for it")
    checkpoints = {name: Checkpoint(name, Path(folders[name])) for name in combination.models}
    vocabularies = {name: read_vocabulary(model.folder, name) for name, model in checkpoints.items()}
    pieces = {name: vocabulary.pieces for name, vocabulary in vocabularies.items()}
    roles = assign(
        combination, pieces, lambda name: bool(chat_template(checkpoints[name].folder)), vocabulary_from, special_from
    )
    anchor = checkpoints[roles.anchor]
    warnings: list[str] = []
    for other in checkpoints.values():
        check_same_architecture(anchor, other)
        _check_tensors(anchor, other)
        warnings += rope_warnings(anchor, other)
    rows = plan_rows(roles, checkpoints, vocabularies)
    warnings += _dropped(combination, roles, rows)
    outputs = tuple(_outputs(anchor, [checkpoints[name] for name in roles.models], rows, dtype))
    return Merge(combination, checkpoints, vocabularies, roles, rows, outputs, tuple(warnings))


def _check_tensors(anchor: Checkpoint, other: Checkpoint) -> None:
    heads = {anchor.head, other.head}
    for left, right in ((anchor, other), (other, anchor)):
        lacking = [name for name in left.tensors if name not in right.tensors and name not in heads]
        if lacking:
            raise MergeError(f"'{right.name}' has no tensor '{lacking[0]}', which '{left.name}' has")
    for name, info in anchor.tensors.items():
        skipped = name not in other.tensors or anchor.is_vocabulary(name)
        own = info.shape[1:] if skipped else info.shape
        theirs = own if name not in other.tensors else other.tensors[name].shape
        if own != (theirs[1:] if skipped and name in other.tensors else theirs):
            raise MergeError(
                f"'{name}' has shape {list(info.shape)} in '{anchor.name}' and {list(theirs)} in '{other.name}'"
            )


def _dropped(combination: Combination, roles: Roles, rows: RowPlan) -> Iterator[str]:
    for name, count in rows.counts["dropped"].items():
        if combination.coefficients[name] > 0:
            yield (
                f"{count} tokens of '{name}' are lost, the output has the vocabulary of '{roles.anchor}'; "
                f"set vocabulary_from to '{name}' to keep them"
            )


def _outputs(
    anchor: Checkpoint, models: list[Checkpoint], rows: RowPlan, dtype: torch.dtype | None
) -> Iterator[Output]:
    """The tensors of the output in the anchor's order; a head of its own as soon as one model has one."""
    heads = [model.head for model in models if model.head]
    for name, info in anchor.tensors.items():
        if (
            name == anchor.head
            or (heads and name in heads)
            or (anchor.head is None and name.endswith("lm_head.weight"))
        ):
            continue
        yield _output(anchor, name, info.dtype, info.shape, rows, dtype)
    if heads:
        info = anchor.tensors[anchor.head or anchor.embedding]
        yield _output(anchor, heads[0], info.dtype, info.shape, rows, dtype)


def _output(
    anchor: Checkpoint, name: str, own: torch.dtype, shape: tuple[int, ...], rows: RowPlan, dtype: torch.dtype | None
) -> Output:
    chosen = dtype if dtype is not None and own.is_floating_point else own
    return Output(name, chosen, (rows.height, *shape[1:]) if anchor.is_vocabulary(name) else shape)


def write(
    merge: Merge,
    folder: Path,
    shard_size: int = SHARD_SIZE,
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, Any]:
    """Write the merged checkpoint to `folder`, which appears whole or not at all, and return what was decided.

    Sums are taken in float32 (float64 where an input is float32) and rounded once. `progress` is told the bytes done
    and in all. Raises MergeError where `folder` holds something already, for NaN or infinity in an input, and for a
    result that the output's type cannot hold.
    """
    if folder.exists() and any(folder.iterdir()):
        raise MergeError(f"'{folder}' is not empty; give a new folder, so that no stale file stays beside the result")
    partial = folder.with_name(f".{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        _write_weights(merge, partial, shard_size, progress)
        decisions = _write_settings(merge, partial)
        _force_to_disk(partial)
    except BaseException as error:
        shutil.rmtree(partial, ignore_errors=True)
        if isinstance(error, OSError):
            raise MergeError(f"cannot write '{folder}': {error.strerror or error}") from error
        raise
    if folder.exists():
        folder.rmdir()
    os.replace(partial, folder)
    return decisions


def _write_settings(merge: Merge, partial: Path) -> dict[str, Any]:
    """Everything beside the weights."""
    tied = not any(merge.checkpoints[name].head for name in merge.roles.models)
    types = {output.dtype for output in merge.outputs if output.dtype.is_floating_point}
    changes: dict[str, Any] = {"tie_word_embeddings": tied}
    if len(types) == 1:
        key = "torch_dtype" if "torch_dtype" in merge.anchor.config else "dtype"
        changes[key] = str(types.pop()).removeprefix("torch.")
    chat = (merge.chat, merge.vocabularies[merge.chat.name])
    write_config(partial, merge.anchor, chat, merge.rows, changes)
    write_tokenizer(partial, merge.anchor, merge.chat, merge.rows)
    decisions = describe(merge)
    (partial / "merge.json").write_text(json.dumps(decisions, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    return decisions


def _force_to_disk(folder: Path) -> None:
    for path in (*folder.iterdir(), folder):
        handle = os.open(path, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def describe(merge: Merge) -> dict[str, Any]:
    """What is merged how: expression, coefficients, roles, rows by rule, warnings."""
    return {
        "expression": merge.combination.text,
        "coefficients": dict(merge.combination.coefficients),
        "vocabulary_from": merge.roles.anchor,
        "special_from": merge.roles.special_from,
        "rows": dict(merge.rows.counts),
        "warnings": list(merge.warnings),
    }


def _write_weights(merge: Merge, folder: Path, shard_size: int, progress: Callable[[int, int], None] | None) -> None:
    files = shards(merge.outputs, shard_size)
    total, done = sum(output.size for output in merge.outputs), 0
    for name, outputs in files.items():
        writer = ShardWriter(folder / name, outputs)
        try:
            for output in outputs:
                writer.write(merged(merge, output))
                done += output.size
                if progress is not None:
                    progress(done, total)
        finally:
            writer.close()
    write_index(folder, files)


def merged(merge: Merge, output: Output) -> Iterator[torch.Tensor]:
    """One tensor of the result, block by block in the order of its elements, in the type of the output."""
    if not output.dtype.is_floating_point:
        yield _copied(merge, output)
        return
    tensors = {name: _input(merge.checkpoints[name], output.name) for name in merge.roles.models}
    wide = any(tensor.dtype in (torch.float32, torch.float64) for tensor in tensors.values())
    accumulate = torch.float64 if wide else torch.float32
    for begin, end in _ranges(output, merge.anchor.is_vocabulary(output.name)):
        if merge.anchor.is_vocabulary(output.name):
            block = merged_rows(merge.rows, merge.roles, tensors, begin, end, accumulate)
        else:
            parts = {name: tensor.view(-1)[begin:end] for name, tensor in tensors.items()}
            vectors = [(v.weight, parts[v.minuend], parts[v.subtrahend]) for v in merge.roles.vectors]
            block = task_arithmetic(parts[merge.roles.anchor], vectors, accumulate)
        rounded = block.to(output.dtype)
        if not torch.isfinite(rounded).all():
            raise _not_finite(output, tensors)
        yield rounded


def _input(model: Checkpoint, name: str) -> torch.Tensor:
    """A model's tensor; its input embedding stands for a head that is tied to it."""
    is_head = model.is_vocabulary(name) and name.endswith("weight") and name != model.embedding
    return model.tensor(model.embedding if is_head and model.head is None else name)


def _ranges(output: Output, by_row: bool) -> Iterator[tuple[int, int]]:
    count = output.shape[0] if by_row else torch.Size(output.shape).numel()
    step = max(1, BLOCK // torch.Size(output.shape[1:]).numel()) if by_row else BLOCK
    for begin in range(0, count, step):
        yield begin, min(begin + step, count)


def _copied(merge: Merge, output: Output) -> torch.Tensor:
    first = merge.anchor.tensor(output.name)
    for name in merge.roles.models[1:]:
        if not torch.equal(first, merge.checkpoints[name].tensor(output.name)):
            raise MergeError(
                f"'{output.name}' holds whole numbers that differ between '{merge.anchor.name}' and '{name}'"
            )
    return first


def _not_finite(output: Output, tensors: Mapping[str, torch.Tensor]) -> MergeError:
    for name, tensor in tensors.items():
        if not torch.isfinite(tensor).all():
            return MergeError(f"'{name}' holds NaN or infinity in '{output.name}'; nothing was written")
    kind = str(output.dtype).removeprefix("torch.")
    return MergeError(f"the sum of '{output.name}' is too large for {kind}; choose dtype bfloat16 or float32")


def dtype_of(name: str) -> torch.dtype:
    """The torch type of a name such as `bfloat16`. Raises MergeError for one that weights cannot have."""
    known = {str(dtype).removeprefix("torch."): dtype for dtype in DTYPES.values() if dtype.is_floating_point}
    if name not in known:
        raise MergeError(f"'{name}' is no type of weights; use {', '.join(known)}")
    return known[name]
