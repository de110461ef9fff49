"""Content hashes of files, remembered so that a large shard is read once and not at every start."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import time
from collections.abc import Iterable
from pathlib import Path

_SETTLED = 2.0
"""Seconds that a file must be old before its hash is remembered: a change within one tick of the file system's clock
that keeps the size could not be seen otherwise."""


def sha256_of(path: Path) -> str:
    """The SHA-256 of a file's bytes, in hexadecimal."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def digest_of(parts: Iterable[str]) -> str:
    """One SHA-256 over several strings, each ended by a zero byte so that their borders count."""
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part.encode("utf-8") + b"\0")
    return digest.hexdigest()


class HashCache:
    """SHA-256 of files, kept in one JSON file under path, size, times of change and inode.

    Losing the file costs time and nothing else; so writing it never stops a run.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._known: dict[str, list] = {}
        self._changed = False
        with contextlib.suppress(OSError, ValueError):
            known = json.loads(path.read_text(encoding="utf-8"))
            self._known = known if isinstance(known, dict) else {}

    def sha256(self, path: Path) -> str:
        """The hash of a file's present content, from memory where nothing about the file has changed."""
        stat = path.stat()
        name, mark = str(path.resolve()), [stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_ino]
        known = self._known.get(name)
        if known and known[:-1] == mark:
            return known[-1]
        value = sha256_of(path)
        if time.time() - max(stat.st_mtime, stat.st_ctime) > _SETTLED:
            self._known[name] = [*mark, value]
            self._changed = True
        return value

    def save(self) -> None:
        """Write what was learnt, whole or not at all; entries of files that are gone are left out."""
        if not self._changed:
            return
        self._known = {name: entry for name, entry in self._known.items() if os.path.exists(name)}
        temporary = self._path.with_name(f"{self._path.name}.{os.getpid()}")
        with contextlib.suppress(OSError):
            self._path.parent.mkdir(parents=True, exist_ok=True)
            temporary.write_text(json.dumps(self._known), encoding="utf-8")
            os.replace(temporary, self._path)
            self._changed = False
