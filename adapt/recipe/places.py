"""Where each value of a recipe stands: in the file, or on the command line."""

from __future__ import annotations

from dataclasses import dataclass, field

from adapt.errors import Problem

Path = tuple[str | int, ...]
"""The keys and indexes that lead to a value: `("stages", "cpt", "mixture", "target")`."""


def dotted(path: Path) -> str:
    """The path as `--set` and messages write it: `stages.cpt.mixture.target`."""
    return ".".join(str(part) for part in path)


def one_line(text: str) -> str:
    """The text with its line ends as spaces: a problem is one line, whatever it quotes."""
    return " ".join(text.splitlines())


@dataclass
class Places:
    """Line and column (from 1) of every key and value of a file, and the `--set` options that replaced some of them."""

    file: str
    keys: dict[Path, tuple[int, int]] = field(default_factory=dict)
    values: dict[Path, tuple[int, int]] = field(default_factory=dict)
    overrides: dict[Path, str] = field(default_factory=dict)

    def override(self, path: Path, option: str) -> None:
        """Note that everything from `path` downwards now comes from the command line."""
        for earlier in [known for known in self.overrides if known[: len(path)] == path]:
            del self.overrides[earlier]
        self.overrides[path] = option

    def written(self, path: Path) -> Path:
        """The path as the file has it: `corpus: target` is short for a list of one, which has no index."""
        short = path[:-1] in self.values and path not in self.values and isinstance(path[-1], int)
        return path[:-1] if short else path

    def value(self, path: Path, message: str) -> Problem:
        """A problem with the value at `path`; where it does not stand in the file, with what it would stand in."""
        return self._problem(path, message, (self.values, self.keys))

    def key(self, path: Path, message: str) -> Problem:
        """A problem with the last key of `path`, or with all that stands below it."""
        return self._problem(path, message, (self.keys, self.values))

    def _problem(self, path: Path, message: str, order: tuple[dict[Path, tuple[int, int]], ...]) -> Problem:
        message, option = one_line(message), self._option(path)
        if option is not None:
            return Problem(option, 0, 0, message)
        for places in order:
            if path in places:
                return Problem(self.file, *places[path], message)
        above = next((path[:end] for end in range(len(path) - 1, 0, -1) if path[:end] in self.keys), None)
        if above is None:
            return Problem(self.file, 1, 1, message)
        key, value = self.keys[above], self.values[above]
        return Problem(self.file, *(value if value[0] == key[0] else key), message)  # a block is known by its key

    def _option(self, path: Path) -> str | None:
        for end in range(len(path), -1, -1):
            if path[:end] in self.overrides:
                return self.overrides[path[:end]]
        return None
