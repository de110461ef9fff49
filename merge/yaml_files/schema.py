"""What a merge file of mergekit may say, strictly: an unknown name or a wrong type is an error with its line."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch

from merge.errors import MergeError
from merge.methods import METHODS
from merge.methods.base import Method
from merge.planning import dtype_of
from merge.yaml_files.document import Entry, suggestion
from merge.yaml_files.references import Reference, read_reference
from merge.yaml_files.settings import NONE, Settings, read_settings
from merge.yaml_files.tokenizer_key import TokenizerRule, read_tokenizer_rule

ELSEWHERE = "; mergekit itself does: --engine mergekit"
_KEYS = (
    "merge_method",
    "models",
    "slices",
    "base_model",
    "parameters",
    "dtype",
    "out_dtype",
    "tokenizer",
    "tokenizer_source",
    "chat_template",
)
_OTHER_FILES = {
    "experts": "a mixture of experts, which is not built here",
    "gate_mode": "a mixture of experts, which is not built here",
    "genome": "a search over merges by mergekit-evolve",
    "modules": "modules (models of several parts), which are not read here",
}


@dataclass(frozen=True)
class Source:
    """A model of a slice, with its layers `[first, last)`; without them, all of them."""

    model: Reference
    layers: tuple[int, int] | None
    settings: Settings
    entry: Entry


@dataclass(frozen=True)
class Slice:
    """Layers of the output, made of the layers of its sources. `scopes` are the parameters, the nearest first."""

    sources: tuple[Source, ...]
    base: Reference | None
    settings: tuple[Settings, ...]
    entry: Entry


@dataclass(frozen=True)
class MergeFile:
    """A file, read. A file with `models` is one slice of all layers."""

    path: Path
    text: str
    method: type[Method]
    slices: tuple[Slice, ...]
    cut: bool
    base: Reference | None
    base_entry: Entry
    dtype: torch.dtype | None
    tokenizer: TokenizerRule | None
    chat_template: Entry | None
    warnings: tuple[str, ...]

    def models(self) -> Iterator[tuple[Reference, Entry]]:
        """Every model with the entry that names it, the base first, then in the order of the file."""
        if self.base is not None:
            yield self.base, self.base_entry
        for part in self.slices:
            for source in part.sources:
                yield source.model, source.entry


def read_merge_file(root: Entry, path: Path, text: str) -> MergeFile:
    """Check a file and give its contents.

    Raises YamlError, with the line, for whatever is not as mergekit has it, and for what only mergekit can do.
    """
    for name, what in _OTHER_FILES.items():
        if name in root.mapping("the file"):
            raise root.fail(f"the file describes {what}{ELSEWHERE}")
    given = root.fields("the file", _KEYS, ("merge_method",))
    method = _method(given["merge_method"])
    settings, warnings = read_settings(given.get("parameters"), method)
    base = read_reference(given["base_model"], "base_model") if "base_model" in given else None
    if ("models" in given) == ("slices" in given):
        raise root.fail("the file has one of 'models' and 'slices'")
    if "models" in given:
        slices = [_whole(given["models"], method, base, settings, warnings)]
    else:
        slices = [_slice(item, method, base, settings, warnings) for item in given["slices"].items("slices")]
    return MergeFile(
        path,
        text,
        method,
        tuple(slices),
        "slices" in given,
        base,
        given.get("base_model", root),
        _dtype(given),
        read_tokenizer_rule(given),
        given.get("chat_template"),
        tuple(warnings),
    )


def _method(entry: Entry) -> type[Method]:
    name = entry.text("merge_method")
    if name not in METHODS:
        raise entry.fail(f"there is no merge_method '{name}'; {suggestion(name, METHODS)}")
    return METHODS[name]


def _dtype(given: dict[str, Entry]) -> torch.dtype | None:
    """`out_dtype`, else `dtype`; what is computed, is computed in float32."""
    found = {key: _type(given[key], key) for key in ("dtype", "out_dtype") if key in given}
    return found.get("out_dtype", found.get("dtype"))


def _type(entry: Entry, key: str) -> torch.dtype:
    try:
        return dtype_of(entry.text(key).removeprefix("torch."))
    except MergeError as error:
        raise entry.fail(f"{key}: {error}") from error


def _whole(
    entry: Entry, method: type[Method], base: Reference | None, settings: Settings, warnings: list[str]
) -> Slice:
    """`models` as one slice; the base is one of its sources, at the end unless it is listed."""
    sources = []
    for item in entry.items("models"):
        given = item.fields("a model", ("model", "parameters"), ("model",))
        sources.append(_source(given, item, None, method, base, warnings))
    if base is not None and base not in [source.model for source in sources]:
        sources.append(Source(base, None, NONE, entry))
    return _checked(Slice(tuple(sources), base, (settings,), entry), method)


def _slice(
    entry: Entry, method: type[Method], base: Reference | None, settings: Settings, warnings: list[str]
) -> Slice:
    given = entry.fields("a slice", ("sources", "base_model", "parameters", "residual_weight"), ("sources",))
    if "residual_weight" in given:
        raise given["residual_weight"].fail("residual_weight has no effect in mergekit either; remove it")
    own_base = read_reference(given["base_model"], "base_model") if "base_model" in given else base
    own, found = read_settings(given.get("parameters"), method)
    warnings += found
    sources = []
    for item in given["sources"].items("sources"):
        parts = item.fields("a source", ("model", "layer_range", "parameters"), ("model", "layer_range"))
        sources.append(_source(parts, item, _layers(parts["layer_range"]), method, own_base, warnings))
    lengths = {last - first for first, last in (source.layers for source in sources if source.layers)}
    if len(lengths) > 1:
        raise entry.fail(f"the sources of a slice have equally many layers; these have {_listed(sorted(lengths))}")
    return _checked(Slice(tuple(sources), own_base, (own, settings), entry), method)


def _source(
    given: dict[str, Entry],
    entry: Entry,
    layers: tuple[int, int] | None,
    method: type[Method],
    base: Reference | None,
    warnings: list[str],
) -> Source:
    model = read_reference(given["model"], "model")
    settings, found = read_settings(given.get("parameters"), method, of_source=True)
    warnings += found
    if model == base and method.base != "none" and settings.values:
        line = given["parameters"].line
        warnings.append(f"line {line}: {', '.join(settings.values)} of the base has no effect in {method.name}")
    return Source(model, layers, settings, given["model"])


def _layers(entry: Entry) -> tuple[int, int]:
    numbers = [item.value for item in entry.items("layer_range")]
    if len(numbers) != 2 or any(type(number) is not int or number < 0 for number in numbers):
        raise entry.fail("layer_range is not of the form [first, last + 1], for example [0, 16]")
    if numbers[0] >= numbers[1]:
        raise entry.fail(f"layer_range is {numbers}, which holds no layer; its end is not part of it")
    return numbers[0], numbers[1]


def _checked(part: Slice, method: type[Method]) -> Slice:
    """Raise YamlError where a model stands twice, the base is missing, or the number of models is wrong."""
    names = [source.model.name for source in part.sources]
    spans = {source.model.place: source.layers for source in part.sources}
    for source in part.sources:
        if names.count(source.model.name) > 1 or spans[source.model.place] != source.layers:
            raise source.entry.fail(f"'{source.model.place}' stands twice in one slice")
    has_base = part.base is not None and method.base != "none" and part.base.name in names
    if method.base == "required" and not has_base:
        what = "needs a base_model" if part.base is None else f"needs its base_model '{part.base.name}' in each slice"
        raise part.entry.fail(f"{method.name} {what}")
    count, (fewest, most) = len(names) - has_base, method.count
    if count < fewest or (most is not None and count > most):
        wanted = f"{fewest}" if fewest == most else f"{fewest} or more" if most is None else f"{fewest} to {most}"
        beside = " beside the base" if has_base else ""
        raise part.entry.fail(f"{method.name} takes {wanted} models{beside}; these are {count}")
    return part


def _listed(numbers: list[int]) -> str:
    return " and ".join(str(number) for number in numbers)
