"""Failures of the world outside (a full disk, no memory, no permission) as one line that says what to do."""

from __future__ import annotations

import errno
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

from adapt.display import size_text
from adapt.errors import AdaptError

_OF_THE_DISK = {
    errno.ENOSPC: "the disk is full",
    errno.EDQUOT: "the disk quota is used up",
    errno.EFBIG: "a file grew larger than the file system or a limit of this process allows",
    errno.EROFS: "the file system is read-only",
    errno.EACCES: "permission was refused",
    errno.EPERM: "permission was refused",
    errno.EMFILE: "too many files are open (raise `ulimit -n`)",
    errno.ENFILE: "too many files are open on this machine",
    errno.EIO: "the disk gave an input/output error",
}
_OF_THE_INPUT = {errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.ESTALE, errno.ETIMEDOUT}
_OUT_OF_MEMORY = ("out of memory", "can't allocate memory", "not enough memory", "cannot allocate memory")
_SHORT_WRITE = re.compile(r"PytorchStreamWriter failed|unexpected pos \d+ vs|iostream error|requested and \d+ written")
_NOT_WHOLE = {"SafetensorError": "a safetensors file", "PytorchStreamReader": "a file of torch"}


class StoppedError(AdaptError):
    """Someone pressed Ctrl-C. What was done is kept."""

    exit_code = 130


def chain(error: BaseException) -> Iterator[BaseException]:
    """The error and those that led to it, the latest first."""
    seen: set[int] = set()
    current: BaseException | None = error
    while current is not None and id(current) not in seen:
        seen.add(id(current))
        yield current
        current = current.__cause__ or (None if current.__suppress_context__ else current.__context__)


def explained(error: Exception, place: str, folder: Path) -> AdaptError | None:
    """The one line, with `place` in front, for an error that a stage raised in `folder`.

    None for an error that is no failure of the world outside, but a mistake of ours.

    Libraries hide what happened: safetensors and tokenizers (Rust) and torch raise errors of their own with the
    system's words in the text, or with none (torch and numpy on a short write), and others wrap. So the whole chain
    is looked at, first for numbers, then for words.
    """
    if isinstance(error, AdaptError):
        message: str | None = str(error)
    else:
        message = _disk(error, folder) or _memory(error) or _corrupt(error) or _input(error, folder)
    if message is None:
        return None
    found = AdaptError(f"{place}: {message}")
    found.exit_code = error.exit_code if isinstance(error, AdaptError) else AdaptError.exit_code
    return found


def _disk(error: Exception, folder: Path) -> str | None:
    for link in chain(error):
        number = link.errno if isinstance(link, OSError) else None
        number = number if number in _OF_THE_DISK else _number_in(str(link))
        if number is not None:
            return _disk_line(_OF_THE_DISK[number], getattr(link, "filename", None), folder)
    if any(_SHORT_WRITE.search(str(link)) for link in chain(error)):
        return _disk_line("a file could not be written whole", None, folder)
    return None


def _number_in(text: str) -> int | None:
    for number in _OF_THE_DISK:
        if os.strerror(number) in text or f"(os error {number})" in text:
            return number
    return None


def _disk_line(what: str, filename: object, folder: Path) -> str:
    place = f" at '{filename}'" if filename else ""
    free = size_text(shutil.disk_usage(_existing(folder)).free)
    return (
        f"{what}{place}; the stage's folder is '{folder}', where {free} are free. "
        "What was done is kept: put that right and run again to go on"
    )


def _existing(folder: Path) -> Path:
    return next(path for path in (folder, *folder.absolute().parents) if path.exists())


def _memory(error: Exception) -> str | None:
    for link in chain(error):
        text = str(link)
        if isinstance(link, MemoryError) or any(words in text.lower() for words in _OUT_OF_MEMORY):
            reason = text.strip().splitlines()[0][:200] if text.strip() else "the system gave no more"
            return f"out of memory: {reason}; make the batch, the sequence length or the model smaller"
    return None


def _corrupt(error: Exception) -> str | None:
    for link in chain(error):
        for sign, what in _NOT_WHOLE.items():
            if sign == type(link).__name__ or sign in str(link):
                reason = str(link).strip().splitlines()[0]
                return f"{what} is not whole or not one at all ({reason}); fetch or make it again"
    return None


def _input(error: Exception, folder: Path) -> str | None:
    """A file that vanished or was never there; one below the stage's own folder would be our mistake."""
    for link in chain(error):
        if isinstance(link, OSError) and link.errno in _OF_THE_INPUT and link.filename:
            path = Path(os.fsdecode(link.filename)).absolute()
            if not path.is_relative_to(folder.absolute()):
                return f"'{path}' cannot be read: {link.strerror}"
    return None
