"""`adapt report` and `adapt compare`: pages of runs that are finished."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from adapt.commands.errors import plain_errors

REPORT_EPILOG = "Example: adapt report recipes/lang.yaml --open"
COMPARE_EPILOG = "Example: adapt compare runs/lang runs/qlora -o compared.html"
_WHAT = "A recipe, RECIPE#STAGE, a folder runs/<recipe>, or a stage's folder in it."

Output = Annotated[
    Path | None, typer.Option("--output", "-o", metavar="FILE", help="Where to write the page.", show_default=False)
]


def report(
    run: Annotated[str, typer.Argument(metavar="RUN", help=_WHAT, show_default=False)],
    output: Output = None,
    open_page: Annotated[bool, typer.Option("--open", help="Show the page in a browser.")] = False,
) -> None:
    """Write the page of a run again, from its folders.

    Nothing is run: what is not finished is shown as far as it came.
    """
    with plain_errors():
        from adapt.report.page import PAGE, write_page
        from adapt.report.runs import show_in_browser
        from adapt.runs import find_run

        found = find_run(run)
        page = write_page(output or found.folder / PAGE, found.name, found.records(), found.description)
        typer.echo(f"report: {page}")
        if open_page:
            show_in_browser(page)


def compare(
    runs: Annotated[list[str], typer.Argument(metavar="RUN RUN...", help=_WHAT, show_default=False)],
    output: Output = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")] = False,
) -> None:
    """Say what differs between runs, in settings and in numbers.

    Stages belong together by their names; two single stages are compared whatever theirs.
    """
    with plain_errors():
        from adapt.display import Display
        from adapt.report.compare import compare as compare_runs
        from adapt.report.compare import show, write_comparison
        from adapt.runs import find_run

        found = compare_runs([find_run(run) for run in runs])
        if output is not None:
            write_comparison(output, found)
        if as_json:
            typer.echo(json.dumps(found.to_dict(), ensure_ascii=False, indent=2))
            return
        display = Display()
        show(found, display)
        if output is not None:
            display.line(f"written: {output}")
