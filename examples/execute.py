"""Executes the notebooks beside this file and saves their outputs: `make notebooks`.

    python examples/execute.py                                  all of them
    python examples/execute.py 02_merge.ipynb --tokens 2000     one, with a small budget
    python examples/execute.py --check                          only look at the saved outputs

Each runs in a folder of its own that holds `recipes/` and `examples/models/`, so its outputs name no path of this
machine and what it makes is gone afterwards. Nothing is saved where a cell fails or an output names this machine.
"""

from __future__ import annotations

import argparse
import getpass
import os
import re
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import nbformat
from nbclient import NotebookClient

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
BUDGET = "ADAPT_EXAMPLE_TOKENS"
LARGEST = 400_000
"""Bytes of a notebook with its outputs: what is still pleasant to clone and to read on a web page."""
_BAR = re.compile(r"\d+%\|.*\|\s*\d+/\d+ \[")
KERNEL = {"display_name": "Python 3", "language": "python", "name": "python3"}


def notebooks() -> list[Path]:
    """All notebooks, in order."""
    return sorted(HERE.glob("*.ipynb"))


def executed(path: Path, tokens: int | None = None, timeout: int = 3600) -> Any:
    """The notebook with the outputs of a run from beginning to end; `tokens` is its budget, empty for its own.

    Raises nbclient's CellExecutionError for a cell that fails.
    """
    notebook = nbformat.read(path, as_version=4)
    with tempfile.TemporaryDirectory() as folder:
        client = NotebookClient(
            notebook,
            timeout=timeout,
            kernel_name="python3",
            record_timing=False,
            coalesce_streams=True,
            resources={"metadata": {"path": str(workplace(Path(folder)))}},
        )
        client.execute(env=_environment(tokens))
    return cleaned(notebook)


def cleaned(notebook: Any) -> Any:
    """The notebook with a kernel that everybody has, and without progress bars."""
    notebook.metadata = {"kernelspec": KERNEL, "language_info": {"name": "python"}}
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.metadata = {}
            cell.outputs = [output for output in cell.outputs if not _is_bar(output)]
    return notebook


def _is_bar(output: Mapping[str, Any]) -> bool:
    lines = [line for line in re.split(r"[\r\n]", output.get("text", "")) if line.strip()]
    return output.get("name") == "stderr" and all(_BAR.search(line) for line in lines)


def workplace(folder: Path) -> Path:
    """Give an empty folder what notebooks read, and return where they begin in it."""
    (folder / "examples").mkdir()
    for name in ("recipes", "examples/models"):
        (folder / name).symlink_to(ROOT / name)
    return folder / "examples"


def _environment(tokens: int | None) -> dict[str, str]:
    search = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    found = os.environ | {"PYTHONPATH": os.pathsep.join(search), "PYTHONWARNINGS": "ignore"}
    found = {name: value for name, value in found.items() if name not in (BUDGET, "MPLBACKEND", "COLUMNS")}
    return found | ({BUDGET: str(tokens)} if tokens else {})


def complaints(notebook: Mapping[str, Any]) -> Iterator[str]:
    """What keeps outputs from being saved: none at all, errors, warnings, and words that tell of this machine."""
    cells = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    if not any(cell["outputs"] for cell in cells):
        yield "has no saved outputs"
    for number, cell in enumerate(cells, 1):
        for output in cell["outputs"]:
            if output["output_type"] == "error" or output.get("name") == "stderr":
                yield f"code cell {number} left an error or a warning: {_text(output)[:300]}"
            for word in _words_of_machine():
                if word in _text(output):
                    yield f"code cell {number} names '{word}'"
    if dict(notebook["metadata"]["kernelspec"]) != KERNEL:
        yield "names a kernel that others do not have"


def _text(output: Mapping[str, Any]) -> str:
    """All that an output says, pictures left out."""
    data = {kind: text for kind, text in output.get("data", {}).items() if not kind.startswith("image/")}
    parts = [output.get("text", ""), *data.values(), output.get("evalue", ""), *output.get("traceback", [])]
    return "\n".join("".join(part) if isinstance(part, list) else str(part) for part in parts)


def _words_of_machine() -> list[str]:
    user = getpass.getuser()
    folders = [str(Path.home()), str(ROOT), sys.prefix, tempfile.gettempdir(), "/home/", "/Users/", "site-packages"]
    return [folder for folder in folders if len(folder) > 1] + ([user] if len(user) > 4 else [])


def main() -> int:
    """Execute or check what the command line names; the number of notebooks with something wrong."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NOTEBOOK")
    parser.add_argument("--tokens", type=int, help=f"the budget ({BUDGET}); outputs of a reduced one are not saved")
    parser.add_argument("--check", action="store_true")
    options = parser.parse_args()
    wrong = 0
    for path in [HERE / Path(name).name for name in options.names] or notebooks():
        began = time.monotonic()
        notebook = nbformat.read(path, as_version=4) if options.check else executed(path, options.tokens)
        text = nbformat.writes(notebook)
        found = list(complaints(notebook))
        found += [f"is {len(text):,} bytes large, more than {LARGEST:,}"] if len(text) > LARGEST else []
        if not found and not options.check and options.tokens is None:
            path.write_text(text + "\n", encoding="utf-8")
        print(f"{path.name}: {'; '.join(found) or 'good'} ({time.monotonic() - began:.0f} s, {len(text):,} bytes)")
        wrong += bool(found)
    return wrong


if __name__ == "__main__":
    raise SystemExit(main())
