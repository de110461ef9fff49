"""Processes that train together on a CPU, forked from one that has imported the libraries; see `together`.

usage: python -m tests.launch.worker PROCESSES BASE FOLDER JOB...
JOB is NAME:METHOD:STRATEGY:MOMENT with STRATEGY ddp, fsdp2, deepspeed-2 or deepspeed-3, and MOMENT one of
    all             the whole run
    half            stopped (by an exception) in the step after a checkpoint
    chunks          with logits that are never whole
    checkpointing   with activations computed again in the backward pass
Each finished run leaves what trained in `weights.safetensors` of its folder. All jobs are done by the same processes.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import traceback
from datetime import timedelta
from pathlib import Path

import torch
from safetensors.torch import save_file

from adapt.launch.children import environment
from adapt.launch.settings import share_of
from adapt.launch.world import ALONE, World, connect, world_of
from adapt.log import Silent
from adapt.methods.full import Full
from adapt.methods.half import Half
from adapt.methods.lora import Lora
from adapt.methods.loram import Loram
from adapt.methods.norms import Norms
from adapt.methods.pruned import Pruned
from adapt.methods.pruning.settings import Pruning
from adapt.methods.qlora import Qlora
from adapt.methods.rows_only import RowsOnly
from adapt.methods.vera import Vera
from adapt.training import loss
from adapt.training.callbacks import Watch
from adapt.training.objectives.dpo import Dpo
from adapt.training.objectives.orpo import Orpo
from tests.training import workshop
from tests.training.pair_workshop import pair_run

ROOT = Path(__file__).parent.parent.parent
METHODS = {
    "full": Full(),
    "full_rows": Full(train_embeddings="new_rows"),
    "half": Half(),
    "lora": Lora(r=4, train_embeddings="new_rows"),
    "dora": Lora(r=4, dora=True),
    "pissa": Lora(r=4, init="pissa"),
    "slow": Lora(r=4, train_embeddings="new_rows", old_rows={"lr_scale": 0.5}),
    "dropout": Lora(r=4, dropout=0.2),
    "rows": RowsOnly(),
    "norms": Norms(),
    "qlora": Qlora(r=4),
    "half_4_bits": Half(frozen="nf4"),
    "pruned": Pruned(),
    "vera": Vera(r=8),
    "loram": Loram(r=4, prune=Pruning()),
    "loram_4_bits": Loram(r=4, prune=Pruning(), frozen="nf4"),
}
PAIRS = {
    "dpo_half": (Half(), Dpo()),
    "dpo_lora": (Lora(r=4, train_embeddings="chat_rows"), Dpo()),
    "orpo": (Lora(r=4), Orpo()),
}


class StopHereError(Exception):
    """Stands for a death in the middle of a run."""


def train(base: Path, folder: Path, method: str, world: World = ALONE, moment: str = "all", **changes) -> dict:
    """Train with four batches of two rows an update, in whatever number of processes."""
    rows, batches = share_of(2, 4, world.size)
    changes |= {"batch_size": rows, "accumulation": batches, "world": world}
    if moment == "checkpointing":
        changes["gradient_checkpointing"] = True
    if method in PAIRS:
        run = world.first(lambda: pair_run(base, folder, *PAIRS[method], held_out=True, **changes))
    else:
        run = workshop.make_run(base, folder, METHODS[method], **changes)
    if not world.main:
        run.log = Silent(folder / "log.jsonl")
    original = Watch.on_step_begin
    logits = loss.CHUNK
    loss.CHUNK = 5000 if moment == "chunks" else logits
    if moment == "half":
        Watch.on_step_begin = stop_in_step_four
    try:
        numbers = run.execute()
    except StopHereError:
        return {}
    finally:
        Watch.on_step_begin, loss.CHUNK = original, logits
    if world.main:
        save_file(
            {name: tensor.contiguous() for name, tensor in workshop.weights(run).items()},
            folder / "weights.safetensors",
        )
    return numbers


def stop_in_step_four(self, args, state, control, **others):
    if state.global_step == 4:
        raise StopHereError


def together(base: Path, folder: Path, *jobs: str, processes: int = 2) -> None:
    """Do the jobs in several processes, forked from one that has imported the libraries."""
    command = [sys.executable, "-m", "tests.launch.worker", str(processes), str(base), str(folder), *jobs]
    threads = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=ROOT, env=threads, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-3000:]


def rank_of(rank: int, processes: int, port: int, base: str, folder: str, jobs: list[str]) -> None:
    """The life of one process."""
    os.environ.update(environment(rank, processes, port))
    for job in jobs:
        name, method, strategy, moment = job.split(":")
        strategy, _, stage = strategy.partition("-")
        world = world_of(os.environ, connect(job, os.environ), strategy, int(stage or 2))
        train(Path(base), Path(folder) / name, method, world, moment)
    torch.distributed.destroy_process_group()


def forked(rank: int, *others) -> int:
    child = os.fork()
    if child == 0:
        try:
            rank_of(rank, *others)
        except BaseException:
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    return child


def main() -> None:
    processes, base, folder, *jobs = sys.argv[1:]
    wait = timedelta(minutes=5)
    store = torch.distributed.TCPStore("127.0.0.1", 0, is_master=True, timeout=wait, wait_for_workers=False)
    children = {forked(rank, int(processes), store.port, base, folder, jobs) for rank in range(int(processes))}
    while children:
        child, status = os.wait()
        children.remove(child)
        if status:
            for other in children:
                os.kill(other, signal.SIGKILL)
            sys.exit(1)


if __name__ == "__main__":
    main()
