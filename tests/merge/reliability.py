"""Relatives, expressions and the command, for the tests of what a merge promises whatever goes wrong."""

from __future__ import annotations

from pathlib import Path

from typer.testing import CliRunner

from merge.commands import app
from tests.merge.family import make_family
from tests.merge.test_adapters import make_adapter

ROOT = Path(__file__).parents[2]
SUM = "cpt + 0.5 * (instruct - base)"
RANDOM = "dare_ties(base, [cpt: 1.0, instruct: 0.5], density=0.5, seed=3)"
EXPRESSIONS = {
    "sum": SUM,
    "ties": "ties(base, [cpt: 1.0, instruct: 0.5], density=0.3)",
    "dare_ties": RANDOM,
    "della": "della(base, [cpt: 1.0, instruct: 0.5], density=0.5, seed=3)",
    "karcher": "karcher(base, instruct)",
    "sce": "sce(base, [cpt, instruct], select_topk=0.5)",
    "lora": "base + 0.7 * lora + 0.3 * (instruct - base)",
}


def relatives(tmp_path_factory):
    """The family, with an adapter of its base."""
    made = make_family(tmp_path_factory.mktemp("family"))
    make_adapter(made.folders["base"], made.folders["base"].with_name("lora"))
    made.folders["lora"] = made.folders["base"].with_name("lora")
    return made


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def run(*arguments) -> tuple[int, str]:
    """`adapt merge` in this process; whatever is not a plain exit is raised."""
    ran = CliRunner().invoke(app, [str(argument) for argument in arguments])
    if ran.exception is not None and not isinstance(ran.exception, SystemExit):
        raise ran.exception
    return ran.exit_code, ran.stderr


def places(family, *names) -> list[str]:
    return [f"{name}={family.folders[name]}" for name in names]
