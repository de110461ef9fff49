"""`files:` text, JSON lines, parquet and CSV on this machine."""

from __future__ import annotations

import glob
import hashlib
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any, ClassVar

from pydantic import BeforeValidator, Field

from adapt.data.sources.base import Place, Source, digest
from adapt.data.sources.formats import EXTENSIONS, DocumentUnit, Format, format_of, read
from adapt.errors import AdaptError

_CHUNK = 1 << 20


def _as_list(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


Patterns = Annotated[
    tuple[Annotated[str, Field(min_length=1)], ...],
    BeforeValidator(_as_list, json_schema_input_type=str | list[str]),
    Field(min_length=1),
]
"""One or several paths; a single one may be written without brackets."""


class Files(Source):
    """Files on this machine: text, JSON lines, parquet, CSV; text forms also with `.gz`."""

    key: ClassVar[str] = "files"

    files: Patterns
    """A file, a folder (all files below it in a known format), a glob such as `data/**/*.txt`, or a list of these."""
    format: Format | None = None
    """The format of all files. Empty: each file's extension says it."""
    document: DocumentUnit = "line"
    """What is one document in a text file: a line, a paragraph (up to a blank line) or the whole file."""

    @property
    def origin(self) -> str:
        """The patterns."""
        return f"files '{', '.join(self.files)}'"

    def paths(self) -> list[Path]:
        """The files, each once: patterns in their order, what a folder or glob holds sorted.

        Raises AdaptError where a pattern matches nothing or a file's format is unknown.
        """
        for message in self.missing():
            raise AdaptError(message)
        return list(dict.fromkeys(path for pattern in self.files for path in self._matches(pattern)))

    def _matches(self, pattern: str) -> list[Path]:
        path = Path(pattern).expanduser()
        if path.is_dir():
            inside = sorted(item for item in path.rglob("*") if item.is_file() and not _hidden(item, path))
            return [item for item in inside if self.format or format_of(item)]
        if path.exists():
            return [path]
        return sorted(Path(name) for name in glob.glob(str(path), recursive=True) if Path(name).is_file())

    def missing(self) -> Iterator[str]:
        """Patterns that match nothing, and files whose format is unknown."""
        for pattern in self.files:
            found = self._matches(pattern)
            if not found:
                yield f"files '{pattern}' match nothing; looked in '{Path.cwd()}'"
            unknown = [path for path in found if self.format is None and format_of(path) is None]
            if unknown:
                known = ", ".join(EXTENSIONS)
                yield f"'{unknown[0]}' has no known extension ({known}, with or without .gz); say which with format:"

    def relative_to(self, folder: Path) -> Source:
        """The source with those patterns that match nothing here, but do in `folder`, taken from there."""
        patterns = [str(folder / name) if not self._matches(name) else name for name in self.files]
        patterns = [new if self._matches(new) else old for new, old in zip(patterns, self.files, strict=True)]
        return self.model_copy(update={"files": tuple(patterns)})

    def located_rows(self) -> Iterator[tuple[Place, dict[str, Any]]]:
        """The rows of all files."""
        for path in self.paths():
            name = str(path)
            for number, row in read(path, self._format(path), self.document):
                yield Place(name, number), row

    def _format(self, path: Path) -> Format:
        form = self.format or format_of(path)
        assert form is not None, path
        return form

    def fingerprint(self) -> str:
        """A hash of the files' bytes and formats in their order; where they lie does not matter."""
        return digest([(self._format(path), file_digest(path)) for path in self.paths()])


def _hidden(path: Path, folder: Path) -> bool:
    return any(part.startswith(".") for part in path.relative_to(folder).parts)


def file_digest(path: Path) -> str:
    """A hash of the file's bytes, computed once per process for a path, size and time of change."""
    try:
        state = path.stat()
        return _digest(str(path.resolve()), state.st_size, state.st_mtime_ns)
    except OSError as error:
        raise AdaptError(f"cannot read '{path}': {error.strerror or error}") from error


@lru_cache(maxsize=65536)
def _digest(path: str, size: int, modified: int) -> str:
    value = hashlib.blake2b(digest_size=16)
    with open(path, "rb") as file:
        while chunk := file.read(_CHUNK):
            value.update(chunk)
    return value.hexdigest()
