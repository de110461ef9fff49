"""Runs training in children that kill themselves with SIGKILL at a given moment, then lets each run again to its end.

usage: python -m tests.training.worker BASE FOLDER JOB...     JOB is NAME:METHOD:PRECISION:MOMENT with MOMENT one of
    none        never
    start       in the second step, before there is a checkpoint
    writing     while the second checkpoint is being written
    later       in the step after a checkpoint
Each finished run leaves `weights.safetensors` in its folder. One process imports the libraries, then forks.
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

import torch
from safetensors.torch import save_file

from adapt.methods.full import Full
from adapt.methods.lora import Lora
from adapt.methods.mixture_of_lora import MixtureOfLora
from adapt.methods.qlora import Qlora
from adapt.training import state
from adapt.training.callbacks import Watch
from adapt.training.precision import Precision
from tests.training import workshop

METHODS = {
    "full": Full(),
    "lora": Lora(r=4, dropout=0.2, train_embeddings="whole"),
    "qlora": Qlora(r=4, dropout=0.2),
    "mixture": MixtureOfLora(new=2, r=2, targets=("q_proj",), train="joint", router="sequence"),
}


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def kill_in_step(step: int) -> None:
    original = Watch.on_pre_optimizer_step

    def deadly(self, args, state, control, **others):
        if state.global_step == step:
            die()
        return original(self, args, state, control, **others)

    Watch.on_pre_optimizer_step = deadly


def kill_in_writing(call: int) -> None:
    original, calls = state.save_tensors, []

    def deadly(tensors, path):
        calls.append(path)
        original(tensors, path)
        if len(calls) == call:
            die()

    state.save_tensors = deadly


def child(base: Path, folder: Path, method: str, precision: str, moment: str) -> None:
    if moment == "start":
        kill_in_step(1)
    elif moment == "later":
        kill_in_step(4)
    elif moment == "writing":
        kill_in_writing(5)
    bf16 = Precision(torch.device("cpu"), precision == "bf16")
    run = workshop.make_run(base, folder, METHODS[method], precision=bf16, accumulation=2)
    run.execute()
    save_file(workshop.weights(run), folder / "weights.safetensors")
    os._exit(0)


def fork(*job) -> int:
    sys.stdout.flush()
    process = os.fork()
    if process == 0:
        try:
            child(*job)
        except BaseException:
            import traceback

            traceback.print_exc()
            os._exit(1)
    return os.waitpid(process, 0)[1]


def main() -> None:
    base, folder, *jobs = sys.argv[1:]
    for job in jobs:
        name, method, precision, moment = job.split(":")
        place = Path(base), Path(folder) / name, method, precision
        if moment != "none":
            assert fork(*place, moment) == signal.SIGKILL, f"{job} was not killed"
            assert not (Path(folder) / name / "weights.safetensors").exists()
        assert fork(*place, "none") == 0, f"{job} failed"


if __name__ == "__main__":
    main()
