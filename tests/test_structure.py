"""The shape of the code: imports point downwards, merge stands alone, settings load without torch, files are small."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
ROOMS = (
    ("cli", "__main__", "commands"),
    ("evaluating",),
    ("loading", "runs"),
    ("recipe",),
    ("pipeline",),
    ("stages", "planning"),
    (
        "vocabulary",
        "methods",
        "data",
        "training",
        "evaluation",
        "merging",
        "export",
        "report",
        "demo",
        "mixture",
        "chat",
        "doctor",
    ),
    ("checkpoints", "launch"),
    ("display", "log", "settings", "errors"),
)
LEVEL = {room: level for level, rooms in enumerate(ROOMS) for room in rooms}
FILES = sorted((ROOT / "adapt").rglob("*.py")) + sorted((ROOT / "merge").rglob("*.py"))


def imported_modules(path: Path) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names.add(node.module)
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_point_downwards(path):
    parts = path.relative_to(ROOT).with_suffix("").parts
    if parts[0] == "merge":
        forbidden = {"adapt", "transformers", "peft", "trl"}
        assert not {name.split(".")[0] for name in imported_modules(path)} & forbidden
        return
    if parts[1] in ("__init__",):
        return
    level = LEVEL[parts[1]]
    for name in imported_modules(path):
        room = name.split(".")[1] if name.startswith("adapt.") else None
        if room in LEVEL:
            assert LEVEL[room] >= level, f"{path.relative_to(ROOT)} imports {name}, which lies above it"


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_files_hold_one_idea(path):
    tree = ast.parse(path.read_text(encoding="utf-8"))
    assert len(path.read_text(encoding="utf-8").splitlines()) <= 300
    for node in ast.walk(tree):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            assert node.end_lineno - node.lineno < 45, f"{node.name} is too long to read at a glance"


@pytest.mark.parametrize("arguments", [["--help"], ["schema"], ["check", "recipes/lang.yaml"]], ids=" ".join)
def test_looking_at_a_recipe_does_not_load_torch(arguments):
    code = (
        "import sys\n"
        "from adapt.cli import app\n"
        f"try:\n    app({arguments!r})\nexcept SystemExit as stop:\n    assert not stop.code, stop.code\n"
        "assert not {'torch', 'transformers', 'peft', 'trl'} & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, stdout=subprocess.DEVNULL, timeout=60)


def test_merge_stands_alone():
    code = (
        "import pkgutil, importlib, sys, merge\n"
        "for module in pkgutil.walk_packages(merge.__path__, 'merge.'):\n    importlib.import_module(module.name)\n"
        "assert not {'adapt', 'transformers', 'peft', 'trl'} & {name.split('.')[0] for name in sys.modules}\n"
    )
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, timeout=60)


def test_no_unpickling_and_no_code_from_text():
    """Safetensors only, nothing is unpickled, no exec or eval of text (design rule 11)."""
    banned = {"torch.load", "torch.save", "pickle.load", "pickle.loads", "exec", "eval", "yaml.load"}
    for path in FILES:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call):
                assert ast.unparse(node.func) not in banned, f"{path.relative_to(ROOT)}:{node.lineno}"
