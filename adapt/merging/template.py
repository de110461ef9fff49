"""An expression with free coefficients as a plan of a merge, and that plan at any values of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from adapt.merging.free import Free, check_names, check_ranges, filled
from adapt.merging.groups import Groups, groups_of

if TYPE_CHECKING:
    import torch

    from merge.planning import Merge

_INSIDE = 0.618
"""Where in a range roles are decided: no special value, so that no coefficient vanishes there."""


@dataclass(frozen=True)
class Template:
    """An expression, its free coefficients and the merge that it plans.

    Whose vocabulary and chat tokens the result has is decided once, inside of the ranges, and is the same for all
    values: a coefficient of 0 would otherwise change it.
    """

    expression: str
    frees: tuple[Free, ...]
    merge: Merge

    @cached_property
    def groups(self) -> Groups:
        """Which tensors share a coefficient."""
        return groups_of(self.frees, [output.name for output in self.merge.outputs])

    @property
    def grouped(self) -> bool:
        """Whether parts of the model have values of their own."""
        return any(free.by != "model" for free in self.frees)

    def at(self, point: Mapping[str, float]) -> Merge:
        """The merge at values by label; only formulas differ from the template's."""
        from merge.formula import parse

        vectors, anchor = self.merge.combination.vectors, self.merge.roles.anchor
        texts = {name: filled(self.expression, self.groups.values(name, point)) for name in self.merge.parts}
        read = {text: parse(text, vectors) for text in dict.fromkeys(texts.values())}
        formulas = {text: found.formula(anchor) for text, found in read.items()}
        parts = {name: replace(part, formula=formulas[texts[name]]) for name, part in self.merge.parts.items()}
        first = next(iter(read.values()))
        whole = first if not self.grouped else replace(first, text=self.text(point), terms={})
        return replace(self.merge, parts=parts, combination=whole)

    def text(self, point: Mapping[str, float]) -> str:
        """The expression with the values filled in; of groups, the expression and the values behind it."""
        if not self.grouped:
            return filled(self.expression, point)
        return f"{self.expression}, {', '.join(f'{label} = {value:.10g}' for label, value in point.items())}"

    def expressions(self, point: Mapping[str, float]) -> dict[str, str]:
        """What tensors of each group are made of, by the labels that they share."""
        order = [coefficient.label for coefficient in self.groups.coefficients]
        found = {
            tuple(labels.values()): filled(self.expression, self.groups.values(tensor, point))
            for tensor, labels in self.groups.labels.items()
        }
        return {
            " ".join(key): found[key] for key in sorted(found, key=lambda key: [order.index(label) for label in key])
        }


def template_of(
    expression: str,
    folders: Mapping[str, Path],
    frees: Sequence[Free],
    dtype: torch.dtype | None = None,
    vocabulary_from: str | None = None,
    special_from: str | None = None,
) -> Template:
    """Plan the merge of an expression with free coefficients.

    Raises AdaptError for free names and ranges that do not fit the expression, and MergeError as a merge does: at both
    ends of the ranges and within, so that no trial fails later for what the expression says.
    """
    from merge.formula import parse
    from merge.planning import prepare

    check_ranges(frees)
    check_names(frees, expression, folders)
    inside = {free.name: round(free.low + _INSIDE * (free.high - free.low), 6) for free in frees}
    merge = prepare(filled(expression, inside), folders, dtype, vocabulary_from, special_from)
    for ends in ({free.name: free.low for free in frees}, {free.name: free.high for free in frees}):
        parse(filled(expression, ends), merge.combination.vectors)
    return Template(expression, tuple(frees), merge)
