"""Where a stage's work lies, and how an unfinished folder becomes a finished one in a single step.

runs/<recipe>/<stage>/<key>.partial/     being made; what a kill leaves is gone on with
runs/<recipe>/<stage>/<key>/             finished: renamed into place whole
runs/<recipe>/<stage>/<key>.replaced/    finished before, being made again by --force; goes when that is done
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

MANIFEST = "manifest.json"
STARTED = "started.json"


@dataclass(frozen=True)
class StageFolders:
    """The three folders that one stage with one key may have."""

    parent: Path
    key: str

    @property
    def finished(self) -> Path:
        """There only when the stage is finished."""
        return self.parent / self.key

    @property
    def partial(self) -> Path:
        """There while the stage is being made."""
        return self.parent / f"{self.key}.partial"

    @property
    def replaced(self) -> Path:
        """There while a finished stage is made again."""
        return self.parent / f"{self.key}.replaced"

    def others_finished(self) -> Iterator[Path]:
        """Finished folders of this stage with other keys."""
        for path in self._all():
            if path != self.finished and not path.suffix and (path / MANIFEST).is_file():
                yield path

    def leftovers(self) -> Iterator[Path]:
        """Unfinished folders of this stage with other keys: nothing goes on with them, nothing deletes them."""
        for path in self._all():
            if path.suffix in (".partial", ".replaced") and path not in (self.partial, self.replaced):
                yield path

    def _all(self) -> list[Path]:
        return sorted(path for path in self.parent.iterdir() if path.is_dir()) if self.parent.is_dir() else []

    def sweep(self) -> None:
        """Delete what a kill left of folders that were being deleted."""
        for path in self._all():
            if path.suffix == ".deleted":
                shutil.rmtree(path)

    def set_aside(self) -> None:
        """Take the finished folder out of its place, so that nothing counts it as finished any more."""
        if self.finished.exists():
            remove(self.replaced)
            os.rename(self.finished, self.replaced)
            sync_folder(self.parent)

    def finish(self) -> None:
        """Make the partial folder the finished one. Its contents must be on the disk already (`sync_tree`)."""
        os.rename(self.partial, self.finished)
        sync_folder(self.parent)
        (self.finished / STARTED).unlink(missing_ok=True)
        remove(self.replaced)


def remove(folder: Path) -> None:
    """Delete a folder with all that it holds, if it is there.

    Renamed first, so that a kill in between never leaves half of a folder under a name that means something.
    """
    if folder.exists():
        doomed = folder.with_name(f"{folder.name}.deleted")
        shutil.rmtree(doomed, ignore_errors=True)
        os.rename(folder, doomed)
        shutil.rmtree(doomed)


def write_json(path: Path, value: Any) -> None:
    """Write JSON so that the file is there whole and on the disk, or not at all."""
    temporary = path.with_name(f"{path.name}.tmp")
    with temporary.open("w", encoding="utf-8") as file:
        json.dump(value, file, ensure_ascii=False, indent=1, allow_nan=False)
        file.write("\n")
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Put a folder's list of names on the disk."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_tree(folder: Path) -> None:
    """Put every file below a folder, and the folders' lists of names, on the disk."""
    for root, _, names in os.walk(folder):
        for name in names:
            descriptor = os.open(Path(root, name), os.O_RDONLY)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
        sync_folder(Path(root))


def bytes_below(folder: Path) -> int:
    """How much the files below a folder take; files that go away meanwhile do not count."""
    total = 0
    for root, _, names in os.walk(folder):
        for name in names:
            try:
                total += os.lstat(os.path.join(root, name)).st_size
            except FileNotFoundError:
                continue
    return total
