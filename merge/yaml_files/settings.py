"""Parameters as mergekit's files give them: a value, a gradient over the layers, or values by filters on names."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from merge.methods.base import Method, Parameter
from merge.parameters import Gradient, Place, problem_with, value_at
from merge.yaml_files.document import Entry, YamlError, suggestion

_MASKED = ("ties", "dare_linear", "dare_ties", "della", "della_linear", "breadcrumbs", "breadcrumbs_ties", "sce")
_UNUSED = {"task_arithmetic": ("density", "rescale")}
"""Parameters that mergekit takes and does not use."""


@dataclass(frozen=True)
class Steps:
    """Words or switches over the layers: the n-th part of the way takes the n-th of them."""

    values: tuple[Any, ...]

    def at(self, place: Place) -> Any:
        """The value for a tensor; the first outside of the layers."""
        return self.values[int((place.depth or 0.0) * (len(self.values) - 1))]


@dataclass(frozen=True)
class Filtered:
    """The setting behind the first filter that is a part of the tensor's name; None where there is none."""

    cases: tuple[tuple[str | None, Any], ...]

    def at(self, place: Place) -> Any:
        """The value for a tensor, or None."""
        for part, setting in self.cases:
            if part is None or part == "*" or part in place.name:
                return value_at(setting, place)
        return None


@dataclass(frozen=True)
class Settings:
    """The parameters of one level of a file (a source, a slice, the file) by name, with the entries they come from."""

    values: Mapping[str, Any]
    entries: Mapping[str, Entry]

    def filters(self) -> Iterator[tuple[str, Entry]]:
        """Every filter that is to find something, with its entry."""
        for name, setting in self.values.items():
            for part, _ in setting.cases if isinstance(setting, Filtered) else ():
                if part not in (None, "*"):
                    yield part, self.entries[name]


NONE = Settings({}, {})


def resolve(name: str, scopes: Iterable[Settings], place: Place) -> Any:
    """A parameter's value for a tensor from the first scope that has one; None where none has."""
    for scope in scopes:
        if name in scope.values:
            value = value_at(scope.values[name], place)
            if value is not None:
                return value
    return None


def read_settings(entry: Entry | None, method: type[Method], of_source: bool = False) -> tuple[Settings, list[str]]:
    """The parameters of one level, and what is to be said about them.

    Raises YamlError for a name that the method does not have, one of the whole method that stands at a source, and a
    value of a wrong kind or out of range.
    """
    if entry is None:
        return NONE, []
    known = {parameter.name: parameter for parameter in method.parameters}
    values, entries, warnings = {}, {}, []
    for name, given in entry.mapping("parameters").items():
        line = entry.line_of(name)
        if name == "int8_mask" and method.name in (*_MASKED, *_UNUSED):
            continue  # mergekit's, to save memory; it changes no result
        if name in _UNUSED.get(method.name, ()):
            warnings.append(f"line {line}: {method.name} has no {name}; mergekit takes it and does not use it either")
            continue
        if name not in known:
            message = f"{method.name} has no parameter '{name}'; {suggestion(name, known) if known else 'it has none'}"
            raise YamlError(entry.file, line, message)
        if of_source and not known[name].each:
            message = f"{name} is one for the whole merge; write it under the parameters of the file or of the slice"
            raise YamlError(entry.file, line, message)
        values[name], entries[name] = _setting(known[name], given), given
    return Settings(values, entries), warnings


def _setting(parameter: Parameter, entry: Entry) -> Any:
    if isinstance(entry.value, dict):
        return Filtered((_case(parameter, entry),))
    if not isinstance(entry.value, list):
        return _scalar(parameter, entry)
    items = entry.items(parameter.name)
    mappings = [isinstance(item.value, dict) for item in items]
    if all(mappings):
        return Filtered(tuple(_case(parameter, item) for item in items))
    if any(mappings):
        raise entry.fail(f"{parameter.name} mixes values with filters; it is a list of either")
    return _gradient(parameter, items)


def _case(parameter: Parameter, entry: Entry) -> tuple[str | None, Any]:
    given = entry.fields(f"a case of {parameter.name}", ("filter", "value"), ("value",))
    part = given["filter"].text("filter") if "filter" in given else None
    value = given["value"]
    if isinstance(value.value, list):
        return part, _gradient(parameter, value.items(parameter.name))
    return part, _scalar(parameter, value)


def _gradient(parameter: Parameter, items: list[Entry]) -> Any:
    values = tuple(_scalar(parameter, item) for item in items)
    if parameter.kind is int and len(values) > 1:
        raise items[0].fail(f"{parameter.name} is a whole number, which has no gradient")
    return Gradient(values) if parameter.kind in (float, int) else Steps(values)


def _scalar(parameter: Parameter, entry: Entry) -> Any:
    if isinstance(entry.value, dict | list | None):
        raise entry.fail(f"{parameter.name} is {entry.shown}; it is a value, a list of them, or a list of filters")
    value = _converted(parameter.kind, entry.value)
    problem = problem_with(parameter, value)
    if problem:
        raise entry.fail(problem)
    return value


def _converted(kind: type, value: Any) -> Any:
    """YAML reads 1e-3 as text; switches may be written 0 and 1."""
    if kind is bool:
        return bool(value) if value in (0, 1) else value
    if isinstance(value, str) and kind in (float, int):
        try:
            value = float(value)
        except ValueError:
            return value
    return int(value) if kind is int and isinstance(value, float) and value.is_integer() else value
