"""Which tensors the output has, which slice each belongs to, and what every source of the slice calls it.

Slices stand one behind the other: the layers of the output are numbered anew. Tensors before the layers (embeddings)
are those of the first slice's sources, tensors behind them (the last norm, the head) those of the last slice's.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from merge.checkpoint import Checkpoint
from merge.parameters import Place, split_at_layer
from merge.planning import check_tensors, tensor_of
from merge.policy import check_same_architecture
from merge.yaml_files.schema import ELSEWHERE, MergeFile, Slice, Source

COUNT_KEYS = ("num_hidden_layers", "n_layer", "n_layers", "num_layers")
"""What configurations call the number of layers."""
_BEFORE = re.compile(r"embed|wte|wpe")
_BEHIND = re.compile(r"norm|ln_f|head|embed_out|score|classifier")


@dataclass(frozen=True)
class Piece:
    """A tensor of the output: its slice, its depth within it (None outside of the layers), and its names.

    `names[i]` is what the slice's i-th source calls it, `shown[i]` the name that filters see: that of a head even
    where the model's head is its embedding.
    """

    name: str
    part: Slice
    depth: float | None
    names: tuple[str, ...]
    shown: tuple[str, ...]

    @property
    def place(self) -> Place:
        """Where the tensor lies in the output."""
        return Place(self.name, self.depth)


def pieces(
    file: MergeFile, anchor: Checkpoint, checkpoints: Mapping[str, Checkpoint], heads: Sequence[str]
) -> list[Piece]:
    """Every tensor of the output in order; `heads` are the names of the heads that models have of their own.

    Raises MergeError where models do not have the same tensors, and YamlError for layers that a model does not have.
    """
    _check(file, anchor, checkpoints)
    outside = [name for name in anchor.tensors if split_at_layer(name) is None and not _is_head(name, anchor)]
    first, last = file.slices[0], file.slices[-1]
    found = [_outside(name, first, checkpoints) for name in outside if not _stands_behind(name)]
    found += _layers(file, anchor, checkpoints) if file.cut else _all_layers(first, anchor)
    found += [_outside(name, last, checkpoints) for name in outside if _stands_behind(name)]
    return found + ([_outside(heads[0], last, checkpoints)] if heads else [])


def layer_count(model: Checkpoint) -> int:
    """The number of layers, by the names of the tensors."""
    found = [split[1] for name in model.tensors if (split := split_at_layer(name))]
    return 1 + max(found, default=-1)


def _is_head(name: str, anchor: Checkpoint) -> bool:
    return name == anchor.head or name.endswith(("lm_head.weight", "embed_out.weight"))


def _stands_behind(name: str) -> bool:
    return bool(_BEHIND.search(name)) and not _BEFORE.search(name)


def _outside(name: str, part: Slice, checkpoints: Mapping[str, Checkpoint]) -> Piece:
    names = tuple(tensor_of(checkpoints[source.model.place], name) for source in part.sources)
    return Piece(name, part, None, names, (name,) * len(names))


def _all_layers(part: Slice, anchor: Checkpoint) -> Iterator[Piece]:
    """The layers as they are; depth counts among the layers under one name (a tower of a model of several parts)."""
    split = {name: found for name in anchor.tensors if (found := split_at_layer(name))}
    last: dict[str, int] = {}
    for prefix, layer, _ in split.values():
        last[prefix] = max(layer, last.get(prefix, 0))
    for name, (prefix, layer, _) in split.items():
        names = (name,) * len(part.sources)
        yield Piece(name, part, _depth(layer, last[prefix] + 1), names, names)


def _layers(file: MergeFile, anchor: Checkpoint, checkpoints: Mapping[str, Checkpoint]) -> Iterator[Piece]:
    number = 0
    for part in file.slices:
        spans = [source.layers for source in part.sources if source.layers]
        for offset in range(spans[0][1] - spans[0][0]):
            inputs = [span[0] + offset for span in spans]
            for prefix, rest in _of_layer(checkpoints[part.sources[0].model.place], inputs[0]):
                names = tuple(f"{prefix}{layer}{rest}" for layer in inputs)
                yield Piece(f"{prefix}{number}{rest}", part, _depth(offset, spans[0][1] - spans[0][0]), names, names)
            number += 1


def _of_layer(model: Checkpoint, layer: int) -> list[tuple[str, str]]:
    split = (split_at_layer(name) for name in model.tensors)
    return [(found[0], found[2]) for found in split if found and found[1] == layer]


def _depth(index: int, count: int) -> float:
    """The place of a layer in its slice, from 0 to 1; a slice of one layer lies at 1, as in mergekit."""
    return index / (count - 1) if count > 1 else 1.0


def _check(file: MergeFile, anchor: Checkpoint, checkpoints: Mapping[str, Checkpoint]) -> None:
    for model in checkpoints.values():
        check_same_architecture(anchor, model, ignoring=COUNT_KEYS if file.cut else ())
        if not file.cut:
            check_tensors(anchor, model)
    if not file.cut:
        return
    prefixes = {split[0] for name in anchor.tensors if (split := split_at_layer(name))}
    if len(prefixes) != 1:
        raise file.slices[0].entry.fail(f"'{anchor.name}' has layers under {len(prefixes)} names{ELSEWHERE}")
    for part in file.slices:
        _check_span(part.sources, checkpoints)
        _check_layers(part, checkpoints)
    outside = [name for name in anchor.tensors if split_at_layer(name) is None and not _is_head(name, anchor)]
    for part in (file.slices[0], file.slices[-1]):
        for source in part.sources:
            model = checkpoints[source.model.place]
            for name in outside:
                _check_shape(anchor, name, model, name, source)


def _check_span(sources: Sequence[Source], checkpoints: Mapping[str, Checkpoint]) -> None:
    for source in sources:
        count = layer_count(checkpoints[source.model.place])
        if source.layers and source.layers[1] > count:
            raise source.entry.fail(
                f"layer_range is {list(source.layers)}, but '{source.model.place}' has {count} layers"
            )


def _check_layers(part: Slice, checkpoints: Mapping[str, Checkpoint]) -> None:
    first, *others = part.sources
    left = checkpoints[first.model.place]
    for source in others:
        right = checkpoints[source.model.place]
        for offset in range(first.layers[1] - first.layers[0]):
            ours, theirs = (origin.layers[0] + offset for origin in (first, source))
            names, same = _of_layer(left, ours), set(_of_layer(right, theirs))
            for prefix, rest in [*names, *(same - set(names))]:
                _check_shape(left, f"{prefix}{ours}{rest}", right, f"{prefix}{theirs}{rest}", source)


def _check_shape(left: Checkpoint, name: str, right: Checkpoint, other: str, source: Source) -> None:
    for model, tensor in ((left, name), (right, other)):
        if tensor not in model.tensors:
            raise source.entry.fail(f"'{model.name}' has no tensor '{tensor}', which the merge needs")
    cut = 1 if left.is_vocabulary(name) else 0
    ours, theirs = left.tensors[name].shape, right.tensors[other].shape
    if ours[cut:] != theirs[cut:]:
        raise source.entry.fail(
            f"'{name}' has shape {list(ours)} in '{left.name}', but '{other}' has {list(theirs)} in '{right.name}'"
        )
    if not left.tensors[name].dtype.is_floating_point:
        raise source.entry.fail(f"'{name}' of '{left.name}' holds whole numbers, which slices do not carry{ELSEWHERE}")
