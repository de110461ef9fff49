"""`adapt eval`: score models without a recipe."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from adapt.commands.errors import plain_errors
from adapt.commands.numbers import whole

if TYPE_CHECKING:
    from adapt.evaluating import Request

EPILOG = "Example: adapt eval runs/mine/chat Qwen/Qwen3-0.6B --base Qwen/Qwen3-0.6B --text uk.txt --items asked.jsonl"


def _option(names: str, metavar: str, text: str) -> Any:
    return typer.Option(*names.split(), metavar=metavar, help=text, show_default=False)


Models = Annotated[
    list[str],
    typer.Argument(metavar="MODEL...", help="Models, adapters, mixtures or runs (folders); hub ids; RECIPE#STAGE."),
]
Suites = Annotated[
    list[str] | None,
    _option("--suite", "NAME", "A task of the lm-evaluation-harness, or RECIPE#STAGE: that stage's suites."),
]


def evaluate(
    models: Models,
    text: Annotated[list[str] | None, _option("--text", "FILE", "Text to predict: bits per byte.")] = None,
    items: Annotated[
        list[str] | None, _option("--items", "FILE", "JSON lines with `prompt` and `answer`: exact match.")
    ] = None,
    suite: Suites = None,
    task_folder: Annotated[
        str | None, _option("--task-folder", "DIR", "A folder with harness tasks of your own.")
    ] = None,
    base: Annotated[str | None, _option("--base", "MODEL", "The model that the others are compared with.")] = None,
    general: Annotated[
        str | None, _option("--general", "FILE", "General text: how much worse than the base it is predicted.")
    ] = None,
    limit: Annotated[str | None, _option("--limit", "N", "Questions or documents of each suite at most.")] = None,
    size: Annotated[str, typer.Option("--bytes", metavar="BYTES", help="Text of each file at most.")] = "100k",
    seed: Annotated[int, typer.Option(help="Of the intervals and of what the harness draws.")] = 17,
    output: Annotated[
        Path | None, _option("--output -o", "DIR", "Write evaluation.json and report.html there.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")] = False,
) -> None:
    """Score models on texts, questions and benchmark tasks.

    Every score has its 95% interval; with --base each model is compared with that one item by item.
    """
    with plain_errors():
        from adapt.evaluating import Request

        most = None if limit is None else whole("--limit", limit)
        files = (tuple(given or ()) for given in (text, items, suite))
        request = Request(tuple(models), *files, task_folder, base, general, most, whole("--bytes", size), seed)
        _run(request, output, as_json)


def _run(request: Request, output: Path | None, as_json: bool) -> None:
    from rich.console import Console

    from adapt.display import Display
    from adapt.evaluating import write
    from adapt.evaluation.metrics import show

    display = Display(Console(stderr=True, highlight=False)) if as_json else Display()
    found = request.run(display)
    if output is not None:
        write(output, request, found)
    if as_json:
        typer.echo(json.dumps(found, ensure_ascii=False, indent=2))
        return
    show("evaluation", found, display)
    if output is not None:
        display.line(f"written: {output / 'evaluation.json'}, {output / 'report.html'}")
