"""One run at a time for a recipe's folder."""

from __future__ import annotations

import fcntl
import json
import os
import socket
from datetime import datetime
from pathlib import Path
from typing import IO

from adapt.errors import AdaptError


class RunLock:
    """A lock on `runs/<recipe>/.lock`, held for as long as the block runs and released by the system on any death.

    A record lock (`lockf`), not `flock`: a child that outlives a killed run (a data loader's worker, say) inherits the
    second kind and would go on holding it. The file says who holds it; it stays, since deleting it would be a race.
    """

    def __init__(self, folder: Path) -> None:
        self._path, self._recipe = folder / ".lock", folder.name
        self._file: IO[str] | None = None

    def __enter__(self) -> RunLock:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        file = self._path.open("a+", encoding="utf-8")
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            holder = self._holder(file)
            file.close()
            raise AdaptError(f"recipe '{self._recipe}' is being run by {holder}; wait for it or stop it") from error
        file.truncate(0)
        started = datetime.now().astimezone().isoformat(timespec="seconds")
        file.write(json.dumps({"pid": os.getpid(), "host": socket.gethostname(), "since": started}))
        file.flush()
        self._file = file
        return self

    def __exit__(self, *exception: object) -> None:
        if self._file is not None:
            self._file.truncate(0)
            self._file.close()
            self._file = None

    @staticmethod
    def _holder(file: IO[str]) -> str:
        file.seek(0)
        try:
            holder = json.loads(file.read())
            host = "" if holder["host"] == socket.gethostname() else f" on {holder['host']}"
            return f"process {holder['pid']}{host} since {holder['since'].replace('T', ' ')}"
        except (ValueError, KeyError, TypeError):
            return "another process"
