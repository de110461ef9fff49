"""pydantic's errors in plain English: what was read, what is allowed, the nearest right spelling."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Mapping
from typing import Any, get_args

from adapt.recipe.shapes import Shape, allowed_keys, described

LONGEST_QUOTE = 60


def quoted(value: Any) -> str:
    """A value as a person wrote it, cut where it is long."""
    if value is None:
        return "nothing"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, Mapping):
        return f"a mapping with the keys {_cut(', '.join(map(str, value)))}" if value else "an empty mapping"
    if isinstance(value, (list, tuple)):
        return f"a list of {len(value)}" if value else "an empty list"
    return f"'{_cut(value)}'" if isinstance(value, str) else _cut(str(value))


def _cut(text: str) -> str:
    return text if len(text) <= LONGEST_QUOTE else text[: LONGEST_QUOTE - 1] + "…"


def nearest(name: Any, names: Iterable[str]) -> str | None:
    """The name that was probably meant, or None."""
    names = list(names)
    lowered = {known.lower().replace("-", "_"): known for known in reversed(names)}
    near = difflib.get_close_matches(str(name).lower().replace("-", "_"), lowered, n=1, cutoff=0.6)
    return lowered[near[0]] if near else None


def suggestion(name: Any, names: Iterable[str], none: str = "") -> str:
    """`; did you mean 'x'? allowed: x, y`, or only what is allowed."""
    names = list(names)
    near = nearest(name, names)
    allowed = f"allowed: {', '.join(names)}" if names else none
    if near is None:
        return f"; {allowed}" if allowed else ""
    return f"; did you mean '{near}'? {allowed}"


def _unknown_key(key: str, parent: Shape | None) -> str:
    return f"unknown key '{key}'{suggestion(key, allowed_keys(parent))}"


def wrong_type(value: Any, shape: Shape | None) -> str:
    """A value of the wrong kind, and what is expected instead."""
    hint = ""
    if shape is not None and shape.core is str and isinstance(value, (int, float)):
        hint = " (in quotes, if that is meant)"
    what = "nothing stands here" if value is None else f"{quoted(value)} cannot stand here"
    return f"{what}; expected {described(shape)}{hint}"


def _choice(value: Any, shape: Shape | None) -> str:
    choices = [str(choice) for choice in get_args(shape.core)] if shape is not None else []
    return f"{quoted(value)} is not allowed{suggestion(value, choices)}"


def _tag(value: Any, shape: Shape | None, context: Mapping[str, Any]) -> str:
    tags = shape.tags if shape is not None else ()
    key = shape.discriminator if shape is not None and isinstance(shape.discriminator, str) else "kind"
    read = value.get(key) if isinstance(value, Mapping) else value
    return f"unknown {key} {quoted(read)}{suggestion(read, tags)}"


def _length(value: Any, shape: Shape | None, context: Mapping[str, Any]) -> str:
    least, unit = context.get("min_length", 1), "character" if isinstance(value, str) else "entry"
    return f"{'an empty text' if value == '' else quoted(value)} cannot stand here; expected at least {least} {unit}"


def _bound(words: str, key: str) -> Callable[[Any, Shape | None, Mapping[str, Any]], str]:
    def message(value: Any, shape: Shape | None, context: Mapping[str, Any]) -> str:
        limit = context[key]
        limit = int(limit) if isinstance(limit, float) and limit.is_integer() else limit
        return f"{quoted(value)} is not allowed; it must be {words} {limit}"

    return message


def _form(value: Any, key: str, parent: Shape | None) -> str:
    """A regular expression says little to most people; the field's description says what is meant."""
    field = parent.fields.get(key) if parent is not None else None
    meaning = " ".join((field.description or "").split()) if field is not None else ""
    return f"{quoted(value)} does not have the right form" + (f": {meaning}" if meaning else "")


def _own(value: Any, shape: Shape | None, context: Mapping[str, Any]) -> str:
    """The message of one of our own validators."""
    return str(context["error"])


def _size(value: Any, shape: Shape | None, context: Mapping[str, Any]) -> str:
    return f"{quoted(value)} is a larger number than can be counted here"


_MESSAGES: dict[str, Callable[[Any, Shape | None, Mapping[str, Any]], str]] = {
    "literal_error": lambda value, shape, context: _choice(value, shape),
    "union_tag_invalid": _tag,
    "int_parsing_size": _size,
    "greater_than_equal": _bound("at least", "ge"),
    "greater_than": _bound("more than", "gt"),
    "less_than_equal": _bound("at most", "le"),
    "less_than": _bound("less than", "lt"),
    "finite_number": lambda value, shape, context: f"{quoted(value)} is not a finite number",
    "int_from_float": lambda value, shape, context: f"{quoted(value)} is not a whole number",
    "too_short": _length,
    "string_too_short": _length,
    "value_error": _own,
    "assertion_error": _own,
}


def worded(error: Mapping[str, Any], shape: Shape | None, parent: Shape | None) -> str:
    """One pydantic error as a line. `shape` is what may stand there, `parent` the mapping that it stands in."""
    kind, value, context = error["type"], error["input"], error.get("ctx", {})
    if kind == "extra_forbidden":
        return _unknown_key(str(error["loc"][-1]), parent)
    if kind == "string_pattern_mismatch":
        return _form(value, str(error["loc"][-1]), parent)
    if kind in _MESSAGES:
        return _MESSAGES[kind](value, shape, context)
    return wrong_type(value, shape) if kind.endswith(("_type", "_parsing")) else str(error["msg"])
