"""Who does a stage: this process alone, processes started for it, or those that a launcher has started beside it.

Everything but a parallel stage is done by one process, which holds the lock and writes. For a parallel stage

    launch: {processes: N} in the recipe   N processes are started for the stage and are gone when it is done (a stage
                                           may say another N, or 1)
    torchrun, accelerate launch            all processes are there from the start; those with a rank above 0 wait for
                                           the first one to tell them a job, and end when it says so or dies
"""

from __future__ import annotations

import os
import shutil
import sys
import threading
import time
import traceback
from collections.abc import Mapping, MutableMapping
from contextlib import suppress
from types import MappingProxyType
from typing import Any

from adapt.errors import AdaptError
from adapt.launch.children import python, run_children
from adapt.launch.settings import Launch
from adapt.launch.world import Board, World, check_devices, connect, take_device, world_of
from adapt.pipeline.job import context_of, job_of, stage_of
from adapt.pipeline.process import started_by_launcher
from adapt.stages.base import Stage, StageContext

_LOOK = 1.0
"""Seconds between two looks whether the first process has given up."""


class Crew:
    """This process alone."""

    def run(self, stage: Stage, context: StageContext) -> dict[str, Any]:
        """Do the stage; returns its metrics."""
        return stage.run(context)

    def end(self, ok: bool) -> None:
        """Let the others go."""


class Children(Crew):
    """This process, and processes of this machine that are started for each stage that several are to do."""

    def __init__(self, launch: Launch) -> None:
        self._launch = launch

    def run(self, stage: Stage, context: StageContext) -> dict[str, Any]:
        """Do the stage in processes of its own where it is parallel."""
        launch = stage.launched(self._launch)
        if not stage.parallel or launch.processes == 1:
            return stage.run(context)
        _check(stage, launch)
        check_devices(launch.processes)
        job = job_of(stage, context) | launch.split
        show = None if context.display.console.is_terminal else context.display.line
        command, logs = python("adapt.pipeline.worker"), context.folder / "processes"
        metrics = run_children(command, job, launch.processes, logs, show)
        shutil.rmtree(logs)  # kept where one has failed
        return metrics


class Ranks(Crew):
    """The processes that a launcher has started, seen from the first one."""

    def __init__(self, launch: Launch) -> None:
        self._launch, self._jobs = launch, 0
        self._board = connect("adapt/crew", os.environ)

    def run(self, stage: Stage, context: StageContext) -> dict[str, Any]:
        """Tell the others the job and do the own part of it."""
        if not stage.parallel:
            return stage.run(context)
        launch = stage.launched(self._launch)
        _check(stage, launch)
        job = job_of(stage, context) | launch.split | {"number": self._jobs}
        self._board.post(f"job/{self._jobs}", job)
        self._jobs += 1
        return stage.run(context_of(job, _world(job), display=context.display, log=context.log))

    def end(self, ok: bool) -> None:
        """Tell the others that there is no further job, or that this process has failed."""
        if ok:
            self._board.post(f"job/{self._jobs}", None)
            _leave()
        else:
            with suppress(RuntimeError):  # the store may be what has failed
                self._board.post("failed", None)


def crew_of(launch: Launch | None, stages: Mapping[str, Stage] = MappingProxyType({})) -> Crew:
    """Who does the stages of a recipe. Raises AdaptError where recipe and launcher say different things."""
    launch = launch or Launch()
    if not started_by_launcher():
        return Children(launch)
    size = int(os.environ["WORLD_SIZE"])
    said = {"": launch.processes if launch.processes > 1 else size}
    said |= {f"stages.{name}.": stage.launched(Launch(processes=size)).processes for name, stage in stages.items()}
    for place, processes in said.items():
        if processes != size:
            raise AdaptError(
                f"{place}launch.processes is {processes}, but this run was started as {size} processes; leave one of "
                "the two out"
            )
    asked = _asked(os.environ)
    told = {} if "strategy" in launch.model_fields_set else asked
    return Ranks(launch.model_copy(update={"processes": size, **told}))


def follow() -> None:
    """The life of a process with a rank above 0: do the jobs of the first one, and end with it."""
    _asked(os.environ)
    board = connect("adapt/crew", os.environ)
    threading.Thread(target=_end_with_first, daemon=True).start()
    number = 0
    while (job := board.read(f"job/{number}")) is not None:
        try:
            world = _world(job)
            stage_of(job).run(context_of(job, world))
        except Exception as error:
            _give_up(error)
        number += 1
    _leave()


def _give_up(error: Exception) -> None:
    """End, so that the launcher ends the others; what the first process met as well is left to that one to tell."""
    time.sleep(2 * _LOOK)
    if isinstance(error, AdaptError):
        print(error, file=sys.stderr)
    else:
        traceback.print_exception(error)
    sys.stderr.flush()
    os._exit(1)


def _world(job: Mapping[str, Any]) -> World:
    world = world_of(os.environ, connect(f"adapt/{job['number']}", os.environ), job["strategy"], job["zero"])
    take_device(world)
    return world


def _end_with_first() -> None:
    board: Board = connect("adapt/crew", os.environ)
    while True:
        try:
            if board.has("failed"):
                os._exit(1)
        except RuntimeError:  # the store is gone and with it the first process
            os._exit(1)
        time.sleep(_LOOK)


def _check(stage: Stage, launch: Launch) -> None:
    for key, message in launch.conflicts():
        raise AdaptError(f"launch.{key}: {message}")
    for complaint in stage.unfit(launch):
        place = ".".join(str(part) for part in complaint.path)
        raise AdaptError(f"{place}: {complaint.message}")


def _asked(environment: MutableMapping[str, str]) -> dict[str, Any]:
    """What `accelerate launch` was told of the strategy, taken out of the environment: libraries would act on it in the
    stages that one process does alone."""
    sharded = environment.get("ACCELERATE_USE_FSDP", "").lower() == "true"
    version = environment.get("FSDP_VERSION", "1")
    deepspeed = environment.get("ACCELERATE_USE_DEEPSPEED", "").lower() == "true"
    zero, file = (environment.get(f"ACCELERATE_DEEPSPEED_{name}") for name in ("ZERO_STAGE", "CONFIG_FILE"))
    for name in [name for name in environment if name.startswith(("ACCELERATE_", "FSDP_"))]:
        del environment[name]
    if sharded and version != "2":
        raise AdaptError("accelerate was told fsdp_version 1, which adapt does not know; set fsdp_version: 2")
    if deepspeed and (file not in (None, "none") or zero not in (None, "2", "3")):
        raise AdaptError("of accelerate's deepspeed_config adapt knows zero_stage 2 and 3 and nothing else; set these")
    if deepspeed:
        return {"strategy": "deepspeed", "zero": int(zero or 2)}
    return {"strategy": "fsdp2"} if sharded else {}


def _leave() -> None:
    import torch.distributed

    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()
