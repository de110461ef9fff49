"""A merge that was checked from headers and tokenizers alone: every tensor and every row of the output is planned."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from merge.adapters import Adapter, AdapterVector, check_used, is_adapter, vector_of
from merge.checkpoint import DTYPES, Checkpoint, is_head
from merge.device import CPU, block_size
from merge.errors import MergeError
from merge.formula import Call, Combination, Formula, Linear, names_in, parse
from merge.hashes import Hashes
from merge.methods import METHODS
from merge.operands import Inputs, Operand, Target, values_of
from merge.parameters import Place
from merge.parameters import places as places_of
from merge.policy import Beside, chat_template, check_same_architecture, rope_warnings
from merge.roles import Roles, assign
from merge.task_vectors import is_task_vector
from merge.tying import heads_given, heads_of
from merge.vocabulary import RowPlan, Vocabulary, plan_rows, read_vocabulary
from merge.writer import Output

if TYPE_CHECKING:
    from merge.lep import Carried


@dataclass(frozen=True)
class Part:
    """How one tensor of the output comes about: its formula, its place, and what each model calls it."""

    formula: Formula
    place: Place
    names: Mapping[str, str]


@dataclass(frozen=True)
class Merge:
    """A merge that can now be written or inspected; `parts` has an entry for each tensor of the output.

    `special` makes the operands of names that are neither checkpoints nor adapters, `carried` are rows that go through
    maps of LEP (which `merge.lep.learn` fits), `device` is where blocks are computed.
    """

    combination: Combination
    parts: Mapping[str, Part]
    checkpoints: Mapping[str, Checkpoint]
    vocabularies: Mapping[str, Vocabulary]
    roles: Roles
    rows: RowPlan
    outputs: tuple[Output, ...]
    warnings: tuple[str, ...]
    adapters: Mapping[str, AdapterVector] = field(default_factory=dict)
    beside: Beside = field(default_factory=Beside)
    special: Mapping[str, Callable[[Target, Inputs], Operand]] = field(default_factory=dict)
    carried: Carried | None = None
    device: torch.device = CPU

    @property
    def anchor(self) -> Checkpoint:
        """The model whose configuration, and as a rule whose vocabulary, the output has."""
        return self.checkpoints[self.roles.anchor]

    @property
    def chat(self) -> Checkpoint:
        """The model whose chat tokens and template the output has."""
        return self.checkpoints[self.beside.chat or self.roles.special_from or self.roles.anchor]

    @property
    def tokenizer(self) -> Checkpoint:
        """The model whose tokenizer files the output has."""
        return self.checkpoints[self.beside.tokenizer or self.roles.anchor]

    @property
    def tied(self) -> bool:
        """Whether the output's head is its input embedding."""
        return not any(is_head(output.name) for output in self.outputs)

    def target(self, output: Output) -> Target:
        """A tensor of the output as rows, in blocks for its device."""
        by_token, block = self.anchor.is_vocabulary(output.name), block_size(self.device)
        return replace(target_of(output, self.parts[output.name].place, by_token), block=block)

    @property
    def size(self) -> int:
        """Bytes of the output's tensors."""
        return sum(output.size for output in self.outputs)

    def key(self, files: Mapping[str, Sequence[Output]]) -> str:
        """A hash of all that the bytes of the output depend on; inputs count with their files' sizes and times."""
        stats = {
            str(file): (file.stat().st_size, file.stat().st_mtime_ns)
            for source in (
                *(self.checkpoints[name] for name in self.roles.models),
                *(vector.adapter for vector in self.adapters.values()),
            )
            for file in sorted({info.file for info in source.tensors.values()})
        }
        layout = {name: [repr(output) for output in outputs] for name, outputs in files.items()}
        formulas = sorted({repr(part) for part in self.parts.values()})
        roles = (self.roles.anchor, self.roles.special_from, self.device.type)
        content = [formulas, *roles, stats, layout, dict(self.beside.files)]
        return hashlib.sha256(json.dumps(content).encode()).hexdigest()

    def inputs(self, output: Output, hashes: Hashes | None = None) -> Inputs:
        """Where a tensor of the output is read from and computed. Sums are float64 where an input is float32."""
        names = self.parts[output.name].names
        types = {self.checkpoints[name].tensors[tensor].dtype for name, tensor in names.items()}
        wide = bool(types & {torch.float32, torch.float64})
        accumulate = torch.float64 if wide else torch.float32
        special = {**self.adapters, **self.special}
        return Inputs(self.checkpoints, self.rows.sources, names, accumulate, hashes or Hashes(), special, self.device)


def tensor_of(model: Checkpoint, name: str) -> str:
    """What a model calls a tensor of the output: its input embedding stands for a head that is tied to it."""
    is_head = model.is_vocabulary(name) and name.endswith("weight") and name != model.embedding
    return model.embedding if is_head and model.head is None else name


def target_of(output: Output, place: Place, by_token: bool) -> Target:
    """A tensor `[n, ...]` as n rows; a vector is one row, unless each of its elements belongs to a token."""
    count = torch.Size(output.shape).numel()
    height = output.shape[0] if len(output.shape) > 1 or (by_token and output.shape) else 1
    return Target(output.name, height, count // max(1, height), place, by_token)


def prepare(
    expression: str,
    folders: Mapping[str, str | Path],
    dtype: torch.dtype | None = None,
    vocabulary_from: str | None = None,
    special_from: str | None = None,
    as_vector: bool = False,
) -> Merge:
    """Check everything that can be checked before a tensor is read, and plan every tensor and every row.

    `folders` maps the expression's names to checkpoints, LoRA adapters and saved task vectors; `dtype` is that of the
    output (default: the anchor's). With `as_vector` the expression is a task vector, such as `instruct - base`.
    Raises MergeError (ExpressionError for the text) with one line.
    """
    combination, checkpoints, adapters = _opened(expression, folders, 0 if as_vector else 1)
    vocabularies = {name: read_vocabulary(model.folder, name) for name, model in checkpoints.items()}
    pieces = {name: vocabulary.pieces for name, vocabulary in vocabularies.items()}
    roles = assign(
        combination, pieces, lambda name: bool(chat_template(checkpoints[name].folder)), vocabulary_from, special_from
    )
    anchor = checkpoints[roles.anchor]
    warnings = _checked_against(anchor, checkpoints.values())
    rows = plan_rows(roles, checkpoints, vocabularies)
    template = _template_from(combination, roles, checkpoints, vocabularies)
    warnings += [*_dropped(combination, roles, rows), *_borrowed(template, roles)]
    changes = {name: vector_of(adapter, checkpoints, roles.anchor) for name, adapter in adapters.items()}
    warnings += heads_given(changes.values())
    heads = heads_of([checkpoints[name] for name in roles.models], changes.values())
    outputs = tuple(_outputs(anchor, heads, rows, dtype))
    formula = combination.vector() if as_vector else combination.formula(roles.anchor)
    parts = _parts(formula, checkpoints, outputs)
    for part in parts.values():
        check_values(part.formula, part.place)
    check_used(changes.values(), {name: part.names for name, part in parts.items()})
    beside = Beside(chat=template)
    said = tuple(warnings)
    return Merge(combination, parts, checkpoints, vocabularies, roles, rows, outputs, said, changes, beside)


def _opened(
    expression: str, folders: Mapping[str, str | Path], total: int
) -> tuple[Combination, dict[str, Checkpoint], dict[str, Adapter]]:
    """The expression with the headers of everything that it names: models and saved vectors, and adapters."""
    names = names_in(expression)
    missing = [name for name in names if name not in folders]
    if missing:
        raise MergeError(f"'{expression}' names '{missing[0]}', but no folder is given for it")
    places = {name: Path(folders[name]) for name in names}
    adapters = {name: Adapter(name, folder) for name, folder in places.items() if is_adapter(folder)}
    vectors = [name for name, folder in places.items() if name in adapters or is_task_vector(folder)]
    combination = parse(expression, vectors, total)
    checkpoints = {name: Checkpoint(name, folder) for name, folder in places.items() if name not in adapters}
    return combination, checkpoints, adapters


def _parts(formula: Formula, checkpoints: Mapping[str, Checkpoint], outputs: Sequence[Output]) -> dict[str, Part]:
    shown = places_of(output.name for output in outputs)
    return {
        name: Part(formula, place, {model: tensor_of(found, name) for model, found in checkpoints.items()})
        for name, place in shown.items()
    }


def _template_from(
    combination: Combination,
    roles: Roles,
    checkpoints: Mapping[str, Checkpoint],
    vocabularies: Mapping[str, Vocabulary],
) -> str | None:
    """The first model mixed that has a chat template, where special tokens come from none and the anchor has none."""
    if roles.special_from is not None or chat_template(checkpoints[roles.anchor].folder):
        return None
    known = vocabularies[roles.anchor].ids
    found = (name for name in combination.positive if chat_template(checkpoints[name].folder))
    return next((name for name in found if set(vocabularies[name].added) <= set(known)), None)


def _borrowed(template: str | None, roles: Roles) -> Iterator[str]:
    if template is not None:
        yield (
            f"'{roles.anchor}' has no chat template; template, stop tokens and generation settings are those of "
            f"'{template}'"
        )


def check_values(formula: Formula | None, place: Place) -> None:
    """Raise MergeError where the parameters that a method has at this place do not go together."""
    if isinstance(formula, Call):
        METHODS[formula.method]().check(values_of(formula, place))
        parts: list[Formula | None] = [*formula.models, formula.base]
    elif isinstance(formula, Linear):
        parts = [formula.start, *(side for d in formula.differences for side in (d.minuend, d.subtrahend))]
    else:
        return
    for part in parts:
        check_values(part, place)


def _checked_against(anchor: Checkpoint, others: Iterable[Checkpoint]) -> list[str]:
    warnings: list[str] = []
    for other in others:
        check_same_architecture(anchor, other)
        check_tensors(anchor, other)
        warnings += rope_warnings(anchor, other)
    return warnings


def check_tensors(anchor: Checkpoint, other: Checkpoint) -> None:
    """Raise MergeError where two models do not have the same tensors with the same shapes, but for rows of tokens."""
    heads = {anchor.head, other.head}
    for left, right in ((anchor, other), (other, anchor)):
        lacking = [name for name in left.tensors if name not in right.tensors and name not in heads]
        if lacking:
            raise MergeError(f"'{right.name}' has no tensor '{lacking[0]}', which '{left.name}' has")
    for name, info in anchor.tensors.items():
        if name not in other.tensors:
            continue
        theirs, cut = other.tensors[name].shape, 1 if anchor.is_vocabulary(name) else 0
        if info.shape[cut:] != theirs[cut:]:
            raise MergeError(
                f"'{name}' has shape {list(info.shape)} in '{anchor.name}' and {list(theirs)} in '{other.name}'"
            )


def _dropped(combination: Combination, roles: Roles, rows: RowPlan) -> Iterator[str]:
    for name, count in rows.counts["dropped"].items():
        if name in combination.positive:
            yield (
                f"{count} tokens of '{name}' are lost, the output has the vocabulary of '{roles.anchor}'; "
                f"set vocabulary_from to '{name}' to keep them"
            )


def _outputs(anchor: Checkpoint, heads: Sequence[str], rows: RowPlan, dtype: torch.dtype | None) -> Iterator[Output]:
    """The tensors of the output in the anchor's order; a head of its own as soon as one model has one."""
    for name, info in anchor.tensors.items():
        if name == anchor.head or name in heads or (anchor.head is None and name.endswith("lm_head.weight")):
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


def dtype_of(name: str) -> torch.dtype:
    """The torch type of a name such as `bfloat16`. Raises MergeError for one that weights cannot have."""
    known = {str(dtype).removeprefix("torch."): dtype for dtype in DTYPES.values() if dtype.is_floating_point}
    if name not in known:
        raise MergeError(f"'{name}' is no type of weights; use {', '.join(known)}")
    return known[name]
