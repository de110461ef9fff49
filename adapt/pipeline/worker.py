"""One of the processes that `adapt` starts for a stage: reads its job, does its part, reports, and ends.

usage: python -m adapt.pipeline.worker DESCRIPTOR, with the job as the first line of standard input. The end of that
input means that the process which started this one is dead; then this one ends as well.
"""

from __future__ import annotations

import json
import os
import sys
import threading
import traceback
from pathlib import Path
from typing import Any

from adapt.errors import AdaptError


def main() -> None:
    """Do the job."""
    descriptor = int(sys.argv[1])
    job = json.loads(sys.stdin.readline())
    threading.Thread(target=_end_with_parent, daemon=True).start()
    code, report = 0, {}
    try:
        report = {"metrics": _work(job)}
    except KeyboardInterrupt:
        code = 130
    except Exception as error:
        code, report = 1, _told(error, job)
    with os.fdopen(descriptor, "w", encoding="utf-8") as reports:
        reports.write(json.dumps(report) + "\n")
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)  # not at leisure: threads of collectives that will never end would hold the process


def _end_with_parent() -> None:
    while sys.stdin.readline():
        pass
    os._exit(1)


def _work(job: dict[str, Any]) -> dict[str, Any]:
    from adapt.display import Display
    from adapt.launch.world import connect, take_device, world_of
    from adapt.log import Log, finite
    from adapt.pipeline.job import context_of, stage_of

    world = world_of(os.environ, connect("adapt/0", os.environ), job["strategy"], job["zero"])
    take_device(world)
    log = Log(Path(job["folder"]) / "log.jsonl") if world.main else None
    return finite(stage_of(job).run(context_of(job, world, display=Display(), log=log)))


def _told(error: Exception, job: dict[str, Any]) -> dict[str, Any]:
    """What went wrong in a line; `plain` where a person can do something about it."""
    from adapt.pipeline.failures import explained

    traceback.print_exc()
    found = error if isinstance(error, AdaptError) else explained(error, "", Path(job["folder"]))
    if found is not None:
        return {"error": str(found).removeprefix(": "), "plain": True}
    lines = str(error).strip().splitlines() or [""]
    return {"error": f"{type(error).__name__}: {lines[0]}", "plain": False}


if __name__ == "__main__":
    main()
