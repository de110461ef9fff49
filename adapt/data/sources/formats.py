"""Readers of the file formats: each yields (line or row number, row) and turns what is broken into one line."""

from __future__ import annotations

import csv
import gzip
import json
import sys
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any, Literal

from adapt.errors import AdaptError

Rows = Iterator[tuple[int, dict[str, Any]]]
DocumentUnit = Literal["line", "paragraph", "file"]
Format = Literal["txt", "jsonl", "parquet", "csv"]

EXTENSIONS: dict[str, Format] = {
    ".txt": "txt",
    ".text": "txt",
    ".md": "txt",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".parquet": "parquet",
    ".csv": "csv",
    ".tsv": "csv",
}
_BATCH = 512


def format_of(path: Path) -> Format | None:
    """The format that a file's name says, `.gz` left aside; None for an unknown extension."""
    name = path.with_suffix("") if path.suffix.lower() == ".gz" else path
    return EXTENSIONS.get(name.suffix.lower())


def read(path: Path, form: Format, unit: DocumentUnit) -> Rows:
    """The rows of one file. Raises AdaptError where it cannot be opened or is broken, with the line."""
    readers: dict[Format, Callable[[], Rows]] = {
        "txt": lambda: _text(path, unit),
        "jsonl": lambda: _jsonl(path),
        "parquet": lambda: _parquet(path),
        "csv": lambda: _csv(path),
    }
    try:
        yield from readers[form]()
    except (OSError, EOFError, zlib.error) as error:
        reason = getattr(error, "strerror", None) or error
        raise AdaptError(f"cannot read '{path}': {reason}") from error


def _open(path: Path) -> IO[bytes]:
    return gzip.open(path, "rb") if path.suffix.lower() == ".gz" else path.open("rb")  # type: ignore[return-value]


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    """The lines without their ends. Only a newline ends a line, as a JSON string may hold other separators."""
    with _open(path) as file:
        for number, line in enumerate(file, 1):
            try:
                text = line.decode("utf-8-sig" if number == 1 else "utf-8")
            except UnicodeDecodeError as error:
                raise AdaptError(
                    f"{path}:{number}: not UTF-8 (byte 0x{line[error.start]:02x} at position {error.start + 1}); "
                    "convert the file to UTF-8"
                ) from error
            yield number, text.rstrip("\r\n")


def _text(path: Path, unit: DocumentUnit) -> Rows:
    if unit == "line":
        return ((number, {"text": line}) for number, line in _lines(path) if line.strip())
    if unit == "paragraph":
        return _paragraphs(path)
    return _whole(path)


def _paragraphs(path: Path) -> Rows:
    """Runs of lines between blank lines."""
    first, lines = 1, []
    for number, line in _lines(path):
        if line.strip():
            first = first if lines else number
            lines.append(line)
        elif lines:
            yield first, {"text": "\n".join(lines)}
            lines = []
    if lines:
        yield first, {"text": "\n".join(lines)}


def _whole(path: Path) -> Rows:
    text = "\n".join(line for _, line in _lines(path))
    if text.strip():
        yield 1, {"text": text}


def _jsonl(path: Path) -> Rows:
    for number, line in _lines(path):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except ValueError as error:
            raise AdaptError(f"{path}:{number}: not JSON: {error}; each line holds one JSON object") from error
        if not isinstance(row, dict):
            raise AdaptError(f"{path}:{number}: a line holds one JSON object, this one {line.strip()[:40]}")
        yield number, row


def _csv(path: Path) -> Rows:
    csv.field_size_limit(sys.maxsize)
    tab = ".tsv" in (suffix.lower() for suffix in path.suffixes)
    reader = csv.reader((line + "\n" for _, line in _lines(path)), delimiter="\t" if tab else ",", strict=True)
    header: list[str] | None = None
    try:
        for values in reader:
            if header is None:
                header = values
            elif values and len(values) != len(header):
                raise AdaptError(f"{path}:{reader.line_num}: {len(values)} values, but the header has {len(header)}")
            elif values:
                yield reader.line_num, dict(zip(header, values, strict=True))
    except csv.Error as error:
        raise AdaptError(f"{path}:{reader.line_num}: not CSV: {error}") from error


def _parquet(path: Path) -> Rows:
    import pyarrow
    import pyarrow.parquet

    number = 0
    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            for batch in file.iter_batches(batch_size=_BATCH):
                for row in batch.to_pylist():
                    number += 1
                    yield number, row
    except pyarrow.ArrowException as error:
        reason = str(error).strip().splitlines()[0]
        raise AdaptError(f"{path}: not a whole parquet file (after row {number}): {reason}") from error
