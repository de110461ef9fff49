"""What of a merge is written already, so that one that was killed goes on where it stopped."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType

from merge.errors import MergeError
from merge.hashes import of_bytes
from merge.writer import ShardWriter

JOURNAL = "journal.jsonl"


class Journal:
    """The folder of an unfinished merge, locked, with a line for each tensor that is whole.

    What lies there under another key (another expression, other inputs, another layout of files) is removed. Raises
    MergeError where another process writes there.
    """

    def __init__(self, partial: Path, key: str) -> None:
        partial.mkdir(parents=True, exist_ok=True)
        self.path = partial / JOURNAL
        self._file = self.path.open("a+", encoding="utf-8")
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self._file.close()
            raise BusyError(f"another merge is writing to '{partial}'; wait for it or give another folder") from None
        self._lines = self._whole_lines()
        if self._lines[:1] != [{"key": key}]:
            self._begin(partial, key)

    def _whole_lines(self) -> list[dict[str, str]]:
        self._file.seek(0)
        lines = []
        for line in self._file:
            try:
                lines.append(json.loads(line))
            except ValueError:  # the line that was being written when the process was killed
                break
        return lines

    def _begin(self, partial: Path, key: str) -> None:
        for path in partial.iterdir():
            if path != self.path:
                shutil.rmtree(path) if path.is_dir() else path.unlink()
        self._file.truncate(0)
        self._lines = []
        self._append({"key": key})

    def _append(self, entry: Mapping[str, str]) -> None:
        self._file.write(json.dumps(entry) + "\n")
        self._file.flush()

    def __enter__(self) -> Journal:
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._file.close()

    def add(self, name: str, digest: str) -> None:
        """A tensor is whole in its file."""
        self._append({"tensor": name, "hash": digest})

    def finished(self, owner: Mapping[str, ShardWriter]) -> dict[str, str]:
        """The tensors that earlier runs wrote, each read back and held against its hash."""
        found = {}
        for entry in self._lines[1:]:
            name, digest = entry["tensor"], entry["hash"]
            writer = owner[name]
            if of_bytes(lambda place, part, n=name, w=writer: w.read(n, place, part), writer.sizes[name]) == digest:
                found[name] = digest
        return found

    def remove(self) -> None:
        """The merge is complete."""
        os.unlink(self.path)


class BusyError(MergeError):
    """Another process holds the folder."""
