"""The formula of each tensor: the method, its models, and the parameters that the file gives for just this tensor.

A parameter of a model is looked for at the model, then at its slice, then in the file; one of the whole merge at the
slice, then in the file; then comes the method's default. Filters and gradients are resolved here: a filter sees the
name that the model has for the tensor (for parameters of the whole merge the output's), as in mergekit.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from difflib import get_close_matches
from typing import Any

from merge.errors import MergeError
from merge.formula import Call, Formula
from merge.methods.base import Method, Parameter
from merge.parameters import Place
from merge.planning import check_values
from merge.yaml_files.document import Entry
from merge.yaml_files.layers import Piece
from merge.yaml_files.schema import MergeFile, Slice, Source
from merge.yaml_files.settings import Settings, resolve


def formula_of(piece: Piece, file: MergeFile, models: Mapping[str, Formula], seed: int = 0) -> Formula:
    """What a tensor of the output is; `models` are the formulas of the file's models by name.

    Raises YamlError for a parameter that is missing, and for values that do not go together.
    """
    method = file.method
    base = base_of(piece.part, method)
    inputs = [(source, name) for source, name in zip(piece.part.sources, piece.shown, strict=True) if source != base]
    common = tuple((p.name, _common(p, piece, method)) for p in method.parameters if not p.each)
    each = tuple(
        (p.name, tuple(_own(p, source, name, piece, method) for source, name in inputs))
        for p in method.parameters
        if p.each
    )
    sources = tuple(models[source.model.name] for source, _ in inputs)
    if method.name == "passthrough" and dict(each)["scale"] == (1.0,):
        return sources[0]
    ground = None if base is None else models[base.model.name]
    call = Call(method.name, sources, ground, common, each, seed if method.random else 0)
    try:
        check_values(call, piece.place)
    except MergeError as error:
        raise piece.part.entry.fail(f"'{piece.name}': {error}") from error
    return call


def base_of(part: Slice, method: type[Method]) -> Source | None:
    """The source that is the base of the method, None where it has none."""
    if method.base == "none" or part.base is None:
        return None
    return next((source for source in part.sources if source.model == part.base), None)


def _common(parameter: Parameter, piece: Piece, method: type[Method]) -> Any:
    return _value(parameter, piece.part.settings, piece.place, piece.part.entry, method.name)


def _own(parameter: Parameter, source: Source, name: str, piece: Piece, method: type[Method]) -> Any:
    scopes = (source.settings, *piece.part.settings)
    who = f"{method.name} of '{source.model.name}'"
    return _value(parameter, scopes, Place(name, piece.depth), source.entry, who)


def _value(parameter: Parameter, scopes: Iterable[Settings], place: Place, entry: Entry, who: str) -> Any:
    value = resolve(parameter.name, scopes, place)
    if value is not None:
        return value
    if parameter.required:
        raise entry.fail(f"{who} needs {parameter.name} for '{place.name}', and nothing gives it")
    return parameter.default


def check_filters(file: MergeFile, found: Collection[Piece]) -> list[str]:
    """What is to be said of filters that find no tensor; one that looks like a mistake in writing is an error."""
    names = {name for piece in found for name in (piece.name, *piece.shown)}
    words = {word for name in names for word in name.split(".") if not word.isdigit()}
    warnings = []
    for settings in _all_settings(file):
        for part, entry in settings.filters():
            if any(part in name for name in names):
                continue
            close = get_close_matches(part, sorted(words), n=1)
            if close:
                raise entry.fail(f"the filter '{part}' finds no tensor; did you mean '{close[0]}'?")
            warnings.append(f"line {entry.line}: the filter '{part}' finds no tensor")
    return list(dict.fromkeys(warnings))


def _all_settings(file: MergeFile) -> Iterable[Settings]:
    for part in file.slices:
        yield from part.settings
        for source in part.sources:
            yield source.settings
