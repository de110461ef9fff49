"""YAML text to plain values with positions, without the surprises of YAML 1.1 and without running anything.

Keys are always text, and only `true` and `false` are booleans: `no` is Norwegian and `on` a word. `1e-3` is a number.
Tags are refused, a key that stands twice is an error, and aliases may not blow the file up.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from yaml.composer import Composer
from yaml.error import MarkedYAMLError
from yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode
from yaml.parser import Parser
from yaml.reader import Reader, ReaderError
from yaml.resolver import BaseResolver
from yaml.scanner import Scanner

from adapt.errors import Problem, RecipeError
from adapt.recipe.places import Path, Places

LARGEST_FILE = 500_000
"""Bytes. A recipe is a page or two; more is another file, given by mistake."""
MOST_VALUES = 20_000
DEEPEST = 40
_LONGEST_NUMBER = 300

_TAG = "tag:yaml.org,2002:"
_NULL, _BOOL, _INT, _FLOAT, _TEXT = (_TAG + name for name in ("null", "bool", "int", "float", "str"))
_WORDS = {
    "cannot start any token": "this character cannot stand here; indent with spaces, not tabs, and quote such text",
    "mapping values are not allowed": "a ':' cannot stand here; check the indentation, or quote the text",
    "expected <block end>": "the indentation does not fit the lines above",
    "could not find expected ':'": "a ':' is missing after a key",
    "expected ',' or '}'": "a ',' or '}' is missing",
    "expected ',' or ']'": "a ',' or ']' is missing",
    "expected a single document": "a recipe is one document; remove the '---'",
}


IMPLICIT = (
    (_NULL, re.compile(r"(?:~|null|Null|NULL|)$"), ["~", "n", "N", ""]),
    (_BOOL, re.compile(r"(?:true|True|TRUE|false|False|FALSE)$"), list("tTfF")),
    (_INT, re.compile(r"(?:[-+]?[0-9][0-9_]*|0o[0-7]+|0x[0-9a-fA-F]+)$"), list("-+0123456789")),
    (
        _FLOAT,
        re.compile(
            r"(?:[-+]?(?:\.[0-9]+|[0-9][0-9_]*(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?"
            r"|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN))$"
        ),
        list("-+0123456789."),
    ),
)
"""What plain text means (tag, pattern, first characters): the core schema of YAML 1.2."""


class _Resolver(BaseResolver):
    """Says what kind of value a plain scalar is."""


for _tag, _pattern, _first in IMPLICIT:
    _Resolver.add_implicit_resolver(_tag, _pattern, _first)


class _Loader(Reader, Scanner, Parser, Composer, _Resolver):
    """PyYAML's own steps from text to nodes; values are made here, never by its constructors."""

    def __init__(self, text: str) -> None:
        Reader.__init__(self, text)
        Scanner.__init__(self)
        Parser.__init__(self)
        Composer.__init__(self)
        _Resolver.__init__(self)
        self._depth = 0

    def compose_node(self, parent: Node | None, index: Any) -> Node | None:
        self._depth += 1
        if self._depth > DEEPEST:
            raise MarkedYAMLError(problem="nested too deeply", problem_mark=self.peek_event().start_mark)
        node = super().compose_node(parent, index)
        self._depth -= 1
        return node


@dataclass(frozen=True)
class Document:
    """What a file says, as dictionaries, lists and scalars, and where."""

    value: Any
    places: Places


def parse(data: bytes | str, file: str) -> Document:
    """Read one YAML document. Raises RecipeError with every problem of the text itself."""
    text = data if isinstance(data, str) else _decoded(data, file)
    if len(text) > LARGEST_FILE:
        raise RecipeError([Problem(file, 1, 1, f"{len(text):,} characters are no recipe (at most {LARGEST_FILE:,})")])
    try:
        node = _Loader(text).get_single_node()
    except ReaderError as error:
        line, column = _position(text, error.position)
        message = f"the character U+{int(error.character):04X} cannot stand in a recipe"
        raise RecipeError([Problem(file, line, column, message)]) from error
    except MarkedYAMLError as error:
        raise RecipeError([_syntax_problem(error, file)]) from error
    builder = _Builder(Places(file))
    value = builder.build(node, ()) if node is not None else None
    if builder.problems:
        raise RecipeError(builder.problems)
    return Document(value, builder.places)


def _decoded(data: bytes, file: str) -> str:
    if len(data) > LARGEST_FILE:
        raise RecipeError([Problem(file, 1, 1, f"{len(data):,} bytes are no recipe (at most {LARGEST_FILE:,})")])
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line, column = _position(data[: error.start].decode("utf-8", errors="replace"), error.start)
        message = f"the byte 0x{data[error.start]:02x} is not UTF-8; save the file as UTF-8"
        raise RecipeError([Problem(file, line, column, message)]) from error


def _position(text: str, offset: int) -> tuple[int, int]:
    before = text[:offset]
    return before.count("\n") + 1, len(before) - (before.rfind("\n") + 1) + 1


def _syntax_problem(error: MarkedYAMLError, file: str) -> Problem:
    mark = error.problem_mark or error.context_mark
    line, column = (mark.line + 1, mark.column + 1) if mark else (1, 1)
    problem = str(error.problem or error.context or "cannot be read")
    for part, words in _WORDS.items():
        if part in problem or part in str(error.context):
            return Problem(file, line, column, f"not valid YAML: {words}")
    return Problem(file, line, column, f"not valid YAML: {problem}")


class _Builder:
    """Nodes to values; notes places and problems on the way."""

    def __init__(self, places: Places) -> None:
        self.places = places
        self.problems: list[Problem] = []
        self._above: list[Node] = []
        self._count = 0

    def build(self, node: Node, path: Path) -> Any:
        self.places.values.setdefault(path, _start(node))
        self._count += 1
        if any(node is above for above in self._above):
            return self._refuse(node, "an alias stands inside of what it stands for")
        if self._count > MOST_VALUES or len(self._above) > DEEPEST:
            if self._count <= MOST_VALUES + 1:
                self._refuse(node, f"aliases make this more than {MOST_VALUES:,} values or nest it too deeply")
                self._count = MOST_VALUES + 2
            return None
        if isinstance(node, ScalarNode):
            return self._scalar(node)
        if node.tag not in (_TAG + "map", _TAG + "seq"):
            return self._refuse(node, f"the tag '{_short(node.tag)}' is not allowed; a recipe holds plain values")
        self._above.append(node)
        value = self._mapping(node, path) if isinstance(node, MappingNode) else self._sequence(node, path)
        self._above.pop()
        return value

    def _mapping(self, node: MappingNode, path: Path) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for key_node, value_node in node.value:
            key = self._key(key_node)
            if key is None:
                continue
            if key in found:
                line = self.places.keys[(*path, key)][0]
                self._refuse(key_node, f"the key '{key}' stands here a second time; the first is in line {line}")
                continue
            self.places.keys[(*path, key)] = _start(key_node)
            found[key] = self.build(value_node, (*path, key))
        return found

    def _key(self, node: Node) -> str | None:
        if not isinstance(node, ScalarNode):
            return self._refuse(node, "a key must be a word, not a list or a mapping")
        if node.value == "<<" and not node.style:
            return self._refuse(node, "merge keys ('<<') are not supported; write the keys out")
        if node.tag not in (_NULL, _BOOL, _INT, _FLOAT, _TEXT):
            return self._refuse(node, f"the tag '{_short(node.tag)}' is not allowed; a recipe holds plain values")
        if not node.value:
            return self._refuse(node, "a key is empty")
        return node.value

    def _sequence(self, node: Node, path: Path) -> list[Any]:
        assert isinstance(node, SequenceNode)
        return [self.build(item, (*path, index)) for index, item in enumerate(node.value)]

    def _scalar(self, node: ScalarNode) -> Any:
        text = node.value
        if node.tag == _TEXT:
            return text
        if node.tag not in (_NULL, _BOOL, _INT, _FLOAT):
            return self._refuse(node, f"the tag '{_short(node.tag)}' is not allowed; a recipe holds plain values")
        if len(text) > _LONGEST_NUMBER:
            return self._refuse(node, f"'{text[:40]}' cannot be read as a number: too long")
        try:
            return _plain(node.tag, text)
        except ValueError:
            return self._refuse(node, f"'{text[:40]}' cannot be read as '{_short(node.tag)}'")

    def _refuse(self, node: Node, message: str) -> None:
        self.problems.append(Problem(self.places.file, *_start(node), message))


def _plain(tag: str, text: str) -> Any:
    """The value of a scalar that is not text. Raises ValueError where text and tag do not fit."""
    if tag == _INT:
        base = {"0o": 8, "0x": 16}.get(text[:2], 10)
        return int(text.replace("_", ""), base)
    if tag == _FLOAT:
        return float(re.sub(r"\.(?=inf|nan)", "", text.replace("_", "").lower()))
    words = {"true": True, "false": False} if tag == _BOOL else dict.fromkeys(("", "~", "null"))
    if text.lower() not in words:
        raise ValueError("no such word")
    return words[text.lower()]


def _start(node: Node) -> tuple[int, int]:
    return node.start_mark.line + 1, node.start_mark.column + 1


def _short(tag: str) -> str:
    return tag.replace(_TAG, "!!")
