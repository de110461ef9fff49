"""Under Slurm: copies that srun has started are refused at once; the script runs with a stand-in for srun."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from adapt.errors import AdaptError
from adapt.pipeline.process import check_tasks

ROOT = Path(__file__).parent.parent.parent
SCRIPT = ROOT / "docs/cluster/job.sbatch"
REFUSED = (
    "srun has started this 2 times, and none of them knows of the others; let srun start torchrun on each node, as "
    "docs/cluster/job.sbatch does, or start one task"
)
CLUSTER = """
scontrol() { echo 127.0.0.1; }
srun() {  # the command on each of two nodes; the second may be the first to come
    shift  # --kill-on-bad-exit=1
    for SLURM_PROCID in 1 0; do "$@" & done
    wait -n && wait -n
}
"""


def test_copies_that_know_nothing_of_each_other_are_refused(monkeypatch):
    monkeypatch.delenv("RANK", raising=False)
    monkeypatch.setenv("SLURM_STEP_NUM_TASKS", "2")
    with pytest.raises(AdaptError) as caught:
        check_tasks()
    assert str(caught.value) == REFUSED
    monkeypatch.setenv("RANK", "1")  # torchrun's, which srun has started
    check_tasks()


@pytest.mark.parametrize("environment", [{}, {"SLURM_STEP_NUM_TASKS": "1"}, {"SLURM_NTASKS": "4", "SLURM_PROCID": "0"}])
def test_one_task_and_a_batch_script_are_no_copies(monkeypatch, environment):
    for name in ("RANK", "SLURM_STEP_NUM_TASKS", "SLURM_NTASKS", "SLURM_PROCID"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    check_tasks()


@pytest.mark.slow
def test_the_command_refuses_them_in_one_line(tmp_path):
    environment = os.environ | {"PYTHONPATH": str(ROOT), "SLURM_STEP_NUM_TASKS": "2", "SLURM_PROCID": "1"}
    command = [sys.executable, "-m", "adapt", "run", str(ROOT / "docs/cluster/recipe.yaml")]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert (done.returncode, done.stderr.strip()) == (1, REFUSED)


@pytest.mark.slow
def test_the_script_trains_on_two_nodes(tmp_path):
    """What Slurm gives is put in by hand: its variables, `scontrol` and `srun`; the rest is the script as it stands."""
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        port = one.getsockname()[1]
    recipe = (ROOT / "docs/cluster/recipe.yaml").read_text().replace("../..", str(ROOT))
    (tmp_path / "recipe.yaml").write_text(recipe.replace("{processes: 2, strategy: ddp}", "{strategy: fsdp2}"))
    (tmp_path / "job.sh").write_text(CLUSTER + SCRIPT.read_text().replace("29500", str(port)))
    environment = os.environ | {
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
        "SLURM_CPUS_PER_TASK": "1",
        "SLURM_GPUS_ON_NODE": "1",
        "SLURM_JOB_NODELIST": "127.0.0.1",
        "SLURM_NNODES": "2",
        "SLURM_JOB_ID": "7",
    }
    command = ["bash", "job.sh", "recipe.yaml"]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.count("report: ") == 1
    found = json.loads(next(tmp_path.glob("runs/*/cpt/*/manifest.json")).read_text())
    assert found["metrics"]["tokens"] > 0
