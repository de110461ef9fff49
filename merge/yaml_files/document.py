"""YAML text as values that know their line; nothing in a file is run, and no alias can blow it up."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from merge.errors import MergeError

MOST_VALUES = 20_000
"""Values of a file, each alias counted with all that it stands for."""
_PLAIN = {f"tag:yaml.org,2002:{kind}" for kind in ("str", "int", "float", "bool", "null", "seq", "map")}
_WORDS = {dict: "a mapping", list: "a list", str: "text", bool: "true or false", type(None): "nothing"}


class YamlError(MergeError):
    """A mistake in a YAML file, with its line."""

    def __init__(self, file: Path, line: int, message: str) -> None:
        self.file, self.line = file, line
        super().__init__(f"{file}, line {line}: {message}")


@dataclass(frozen=True)
class Entry:
    """A value of a file: a scalar, a list of entries, or a mapping of names to entries."""

    value: Any
    file: Path
    line: int
    key_lines: dict[str, int] | None = None

    def fail(self, message: str) -> YamlError:
        """An error at the entry's line."""
        return YamlError(self.file, self.line, message)

    def mapping(self, what: str) -> dict[str, Entry]:
        """The entries by name. Raises YamlError for anything but a mapping."""
        return self._as(dict, what)

    def items(self, what: str) -> list[Entry]:
        """The entries of a list. Raises YamlError for anything but a list that holds something."""
        found = self._as(list, what)
        if not found:
            raise self.fail(f"{what} is an empty list")
        return found

    def text(self, what: str) -> str:
        """The text. Raises YamlError for anything else."""
        found = self._as(str, what)
        if not found.strip():
            raise self.fail(f"{what} is empty")
        return found

    def _as(self, kind: type, what: str) -> Any:
        if not isinstance(self.value, kind):
            raise self.fail(f"{what} is {self.shown}; it is {_WORDS[kind]}")
        return self.value

    @property
    def shown(self) -> str:
        """The value, or what kind of thing it is, for an error."""
        if isinstance(self.value, bool):
            return str(self.value).lower()
        return _WORDS[type(self.value)] if isinstance(self.value, dict | list | None) else repr(self.value)

    def fields(self, what: str, known: Collection[str], required: Collection[str] = ()) -> dict[str, Entry]:
        """The entries of a mapping whose names must be among `known`; names without a value count as not given.

        Raises YamlError, with the nearest right name, for one that is not, and for one of `required` that is missing.
        """
        found = self.mapping(what)
        for name in found:
            if name not in known:
                raise YamlError(self.file, self.line_of(name), f"{what} has no '{name}'; {suggestion(name, known)}")
        given = {name: entry for name, entry in found.items() if entry.value is not None}
        for name in required:
            if name not in given:
                raise self.fail(f"{what} lacks '{name}'")
        return given

    def line_of(self, name: str) -> int:
        """The line of a key."""
        return (self.key_lines or {}).get(name, self.line)


def suggestion(word: str, known: Collection[str]) -> str:
    """`did you mean 'density'?` for a word near one that is known, else the known words."""
    close = difflib.get_close_matches(word, list(known), n=1)
    return f"did you mean '{close[0]}'?" if close else f"there are {', '.join(known)}"


def read_yaml(path: Path) -> list[Entry]:
    """The documents of a file.

    Raises MergeError for a file that cannot be read, and YamlError for text that is no YAML, tags, keys that stand
    twice or are no text, and more values than any merge has.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise MergeError(f"cannot read '{path}': {reason}") from error
    try:
        nodes = list(yaml.compose_all(text, Loader=yaml.SafeLoader))
        for node in nodes:
            _check_size(node, path)
        return [_Builder(path).entry(node) for node in nodes]
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise YamlError(path, line, f"this is no YAML: {error.problem}") from error
    except yaml.reader.ReaderError as error:
        raise YamlError(path, 1, f"this is no YAML: it holds the character {error.character!r}") from error
    except RecursionError as error:
        raise YamlError(path, 1, "this is nested too deeply for a merge") from error


def _check_size(root: yaml.Node, path: Path) -> None:
    """Count the values with every alias written out, without writing them out."""
    counts: dict[int, int] = {}

    def count(node: yaml.Node, above: frozenset[int]) -> int:
        if id(node) in above:
            raise YamlError(path, node.start_mark.line + 1, "this value contains itself")
        if id(node) not in counts:
            inner = above | {id(node)}
            counts[id(node)] = 1 + sum(count(child, inner) for child in _children(node))
        return counts[id(node)]

    if count(root, frozenset()) > MOST_VALUES:
        raise YamlError(path, 1, f"with its aliases written out, the file has more than {MOST_VALUES:,} values")


def _children(node: yaml.Node) -> Iterator[yaml.Node]:
    if isinstance(node, yaml.MappingNode):
        for pair in node.value:
            yield from pair
    elif isinstance(node, yaml.SequenceNode):
        yield from node.value


class _Builder:
    """Turns nodes into entries."""

    def __init__(self, file: Path) -> None:
        self.file = file
        self.scalars = yaml.constructor.SafeConstructor()

    def entry(self, node: yaml.Node) -> Entry:
        line = node.start_mark.line + 1
        if isinstance(node, yaml.MappingNode) and node.tag in _PLAIN:
            self.scalars.flatten_mapping(node)
            return self._mapping(node, line)
        if isinstance(node, yaml.SequenceNode) and node.tag in _PLAIN:
            return Entry([self.entry(child) for child in node.value], self.file, line)
        return Entry(self._scalar(node, line), self.file, line)

    def _mapping(self, node: yaml.MappingNode, line: int) -> Entry:
        found: dict[str, Entry] = {}
        lines: dict[str, int] = {}
        for key, value in node.value:
            place = key.start_mark.line + 1
            if not isinstance(key, yaml.ScalarNode):
                raise YamlError(self.file, place, "a key is text; this one is a list or a mapping")
            if key.value in found:
                raise YamlError(self.file, place, f"'{key.value}' stands twice, first in line {lines[key.value]}")
            found[key.value], lines[key.value] = self.entry(value), place
        return Entry(found, self.file, line, lines)

    def _scalar(self, node: yaml.Node, line: int) -> Any:
        if isinstance(node, yaml.ScalarNode) and node.tag in _PLAIN:
            try:
                return self.scalars.construct_object(node)
            except ValueError:
                return node.value
        if isinstance(node, yaml.ScalarNode) and node.tag == "tag:yaml.org,2002:timestamp":
            return node.value
        raise YamlError(self.file, line, f"the tag '{node.tag}' is not read; a merge needs none")
