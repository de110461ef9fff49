"""Which tensors share a coefficient: all of them, those of some layers, or those of one kind of module."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

from adapt.errors import AdaptError
from adapt.merging.free import Coefficient, Free


@dataclass(frozen=True)
class Groups:
    """The numbers that are looked for, and for each tensor the label of its number by free name."""

    coefficients: tuple[Coefficient, ...]
    labels: Mapping[str, Mapping[str, str]]

    def values(self, tensor: str, point: Mapping[str, float]) -> dict[str, float]:
        """The value of each free name for a tensor, from the values by label."""
        return {name: point[label] for name, label in self.labels[tensor].items()}


def groups_of(frees: Sequence[Free], tensors: Sequence[str]) -> Groups:
    """Divide a model's tensors.

    With n groups of layers, layer l of L is in group floor(l n / L); embeddings go with the first group, the final
    norm and the head with the last. Kinds are those of `merge.kinds`, as far as the model has them. Raises AdaptError
    for more groups than layers and for a model without numbered layers.
    """
    parts = {free.name: _parts(free, tensors) for free in frees}
    labels = {tensor: {free.name: parts[free.name][tensor] for free in frees} for tensor in tensors}
    coefficients = [
        Coefficient(label, free.name, free.low, free.high)
        for free in frees
        for label in dict.fromkeys(_ordered(free, parts[free.name]))
    ]
    return Groups(tuple(coefficients), labels)


def _parts(free: Free, tensors: Sequence[str]) -> dict[str, str]:
    if free.by == "model":
        return dict.fromkeys(tensors, free.name)
    if free.by == "kinds":
        from merge.kinds import kind_of

        return {tensor: f"{free.name}[{kind_of(tensor)}]" for tensor in tensors}
    return _layer_parts(free, tensors)


def _layer_parts(free: Free, tensors: Sequence[str]) -> dict[str, str]:
    from merge.kinds import is_head, kind_of
    from merge.parameters import layer_of

    layers = {tensor: layer_of(tensor) for tensor in tensors}
    depth = 1 + max((layer for layer in layers.values() if layer is not None), default=-1)
    if free.count > depth:
        raise AdaptError(f"'{free.name}' has {free.count} groups of layers, but the model has {depth} layers")
    bounds = [-(-group * depth // free.count) for group in range(free.count + 1)]
    names = [f"{free.name}[layers {first}-{last - 1}]" for first, last in pairwise(bounds)]
    found = {}
    for tensor, layer in layers.items():
        if layer is None:
            before = kind_of(tensor) == "embeddings" and not is_head(tensor)
            layer = 0 if before else depth - 1
        found[tensor] = names[layer * free.count // depth]
    return found


def _ordered(free: Free, parts: Mapping[str, str]) -> list[str]:
    """Labels from the first layer to the last, kinds in their usual order."""
    from merge.kinds import KINDS
    from merge.parameters import layer_of

    found = list(dict.fromkeys(parts.values()))
    if free.by == "kinds":
        return sorted(found, key=lambda label: KINDS.index(label.partition("[")[2][:-1]))
    if free.by == "layers":
        inside = sorted((layer, label) for tensor, label in parts.items() if (layer := layer_of(tensor)) is not None)
        return list(dict.fromkeys(label for _, label in inside))
    return found
