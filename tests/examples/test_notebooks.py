"""The notebooks: they run, their saved outputs are whole and say nothing of a machine, and they use the public API."""

from __future__ import annotations

import ast
import copy
import importlib.util
from pathlib import Path

import nbformat
import pytest

import adapt
import merge

ROOT = Path(__file__).parents[2]
specification = importlib.util.spec_from_file_location("execute", ROOT / "examples" / "execute.py")
execute = importlib.util.module_from_spec(specification)
specification.loader.exec_module(execute)

NOTEBOOKS = execute.notebooks()
QUICK = "02_merge"
"""The one that trains least; it runs in every test run."""


def code_of(notebook):
    return [cell["source"] for cell in notebook["cells"] if cell["cell_type"] == "code"]


@pytest.fixture(params=NOTEBOOKS, ids=lambda path: path.stem)
def notebook(request):
    found = nbformat.read(request.param, as_version=4)
    found.path = request.param
    return found


def test_there_are_notebooks():
    assert {"01_language", "02_merge", "03_half_and_qlora"} <= {path.stem for path in NOTEBOOKS}


def test_saved_outputs(notebook):
    path = notebook.pop("path")
    assert list(execute.complaints(notebook)) == []
    assert path.stat().st_size <= execute.LARGEST
    counts = [cell["execution_count"] for cell in notebook["cells"] if cell["cell_type"] == "code"]
    assert counts == list(range(1, len(counts) + 1)), "saved from a run from beginning to end"
    pictures = [o for c in notebook["cells"] for o in c.get("outputs", ()) if "image/png" in o.get("data", {})]
    assert len(pictures) >= 3
    nbformat.validate(notebook)


def test_one_variable_sets_the_budget(notebook):
    cells = code_of(notebook)
    assert execute.BUDGET in cells[0]
    assert "\n".join(cells).count("os.environ") == 1


def test_only_the_public_api(notebook):
    """`adapt`, `adapt.demo` and `merge` with the names in their `__all__`, and no name that begins with `_`."""
    for source in code_of(notebook):
        for node in ast.walk(ast.parse(source)):
            if isinstance(node, ast.Import):
                ours = {name.name for name in node.names if name.name.split(".")[0] in ("adapt", "merge")}
                assert ours <= {"adapt", "merge"}
            elif isinstance(node, ast.ImportFrom) and node.module.split(".")[0] in ("adapt", "merge"):
                assert node.module == "adapt.demo"
            elif isinstance(node, ast.Attribute):
                assert not node.attr.startswith("_")
                room = {"adapt": adapt, "merge": merge}.get(getattr(node.value, "id", ""))
                assert room is None or node.attr in room.__all__


def runs(path, tokens):
    found = list(execute.complaints(execute.executed(path, tokens, timeout=600)))
    assert not [line for line in found if "names '" in line or "error or a warning" in line], found


@pytest.mark.slow
def test_the_quick_one_runs(tmp_path, monkeypatch):
    """In this process, whose libraries are loaded already."""
    import matplotlib

    matplotlib.use("agg")
    (path,) = (path for path in NOTEBOOKS if path.stem == QUICK)
    monkeypatch.chdir(execute.workplace(tmp_path))
    monkeypatch.setenv(execute.BUDGET, "2048")
    names = {"__name__": "notebook"}
    for source in code_of(nbformat.read(path, as_version=4)):
        exec(source, names)
    names["plt"].close("all")
    assert set(names["last"]) == {"average", "sum", "ties", "searched"}


@pytest.mark.slow
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_runs(path):
    """In a kernel, as a reader runs them."""
    runs(path, 20_480)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda cells: [cell.update(outputs=[]) for cell in cells], "has no saved outputs"),
        (lambda cells: cells[0]["outputs"].append(stream("stdout", f"{Path.home()}/x")), f"names '{Path.home()}'"),
        (lambda cells: cells[0]["outputs"].append(stream("stderr", "careful")), "left an error or a warning: careful"),
    ],
    ids=["empty", "machine", "warning"],
)
def test_outputs_that_are_not_saved(change, message):
    notebook = copy.deepcopy(nbformat.read(NOTEBOOKS[0], as_version=4))
    change([cell for cell in notebook["cells"] if cell["cell_type"] == "code"])
    assert any(message in line for line in execute.complaints(notebook))


def stream(name, text):
    return nbformat.v4.new_output("stream", name=name, text=text)
