"""`adapt merge search`: coefficients of a merge, looked for on held-out text or questions."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from adapt.errors import AdaptError
from merge.commands.merging import Dtype, SpecialFrom, VocabularyFrom

if TYPE_CHECKING:
    from adapt.merging.search import Outcome
    from adapt.merging.template import Template
    from adapt.merging.trials import Trial

Expression = Annotated[
    str, typer.Argument(metavar="EXPRESSION", help="With names for free numbers: 'cpt + w * (instruct - base)'.")
]
Models = Annotated[
    list[str] | None,
    typer.Argument(metavar="NAME=FOLDER...", help="Where each model is: a folder or a hub id.", show_default=False),
]
Output = Annotated[
    Path, typer.Option("--output", "-o", metavar="FOLDER", help="Where trials and curve go.", show_default=False)
]
FreeNames = Annotated[
    list[str] | None,
    typer.Option("--free", metavar="NAME=LOW..HIGH", help="Also w:layers=4=0..1.5 and w:kinds=0..1.5."),
]
Texts = Annotated[
    list[str] | None, typer.Option("--text", metavar="FILE[:WEIGHT]", help="Held-out text; bits per byte are lowered.")
]
Tasks = Annotated[
    list[str] | None,
    typer.Option("--task", metavar="FILE[:WEIGHT]", help="JSON lines with prompt and answer; wrong ones are lowered."),
]
Method = Annotated[
    Literal["grid", "random", "tpe", "cma"], typer.Option(help="tpe and cma need the extra named search.")
]
Count = Annotated[int, typer.Option(min=1, help="How many values are scored at most.")]
Seed = Annotated[int, typer.Option(min=0, help="What random, tpe and cma draw with.")]
Size = Annotated[int, typer.Option("--bytes", min=1, help="How much of each text is read.")]
Limit = Annotated[int, typer.Option("--questions", min=1, help="How many questions of each task are asked.")]
Write = Annotated[bool, typer.Option("--write", help="Write the best merge to FOLDER/model.")]


def search(
    expression: Expression,
    output: Output,
    models: Models = None,
    free: FreeNames = None,
    text: Texts = None,
    task: Tasks = None,
    method: Method = "grid",
    trials: Count = 16,
    seed: Seed = 0,
    size: Size = 100_000,
    questions: Limit = 200,
    dtype: Dtype = None,
    vocabulary_from: VocabularyFrom = None,
    special_from: SpecialFrom = None,
    write: Write = False,
) -> None:
    """Find a merge's coefficients on held-out text.

    The model is made once and its weights are set in place for every trial. What was scored is kept in FOLDER, so the
    same command goes on where it stopped.
    """
    with _plain_errors():
        from adapt.merging.coefficients import searched, template_from
        from adapt.merging.objective import goals_of
        from merge.locations import named

        template = template_from(expression, named(models or []), free or [], dtype, vocabulary_from, special_from)
        if write:
            _check_writable(template, output / "model")
        goals = goals_of(text or [], task or [], size, questions)
        outcome = searched(template, goals, output, method, trials, seed, _report)
        _show(outcome, outcome.record(method, seed), models or [])
        typer.echo(f"wrote {output / 'search.json'} and {output / 'curve.png'}")
        if write:
            _write(outcome, output / "model")


@contextmanager
def _plain_errors() -> Iterator[None]:
    """A user's mistake as one line, in the way of the other commands of merge."""
    from merge.commands.output import plain_errors
    from merge.errors import MergeError

    with plain_errors():
        try:
            yield
        except AdaptError as error:
            raise MergeError(str(error)) from error


def _report(number: int, count: int, trial: Trial, value: float, best: float) -> None:
    """A line for each trial."""
    values = "  ".join(f"{label}={found:g}" for label, found in trial.values.items())
    scores = "  ".join(
        f"{Path(name).name} {'-' if score is None else f'{score:.4f}'}" for name, score in trial.scores.items()
    )
    mark = "  best so far" if value == best else ""
    typer.echo(f"  {number}/{count}  {values}  {scores}  {trial.seconds:.1f} s{mark}")


def _show(outcome: Outcome, record: dict[str, Any], models: Sequence[str]) -> None:
    """The best expression, ready to be merged; of groups, each group's."""
    best = record["best"]
    typer.echo(f"best: {best['expression']}  (loss {best['loss']:.4f})")
    for group, text in best["by_group"].items():
        typer.echo(f"  {group}: {text}")
    if not outcome.template.grouped:
        roles = outcome.template.merge.roles
        chosen = f" --vocabulary-from {roles.anchor}"
        chosen += f" --special-from {roles.special_from}" if roles.special_from else ""
        typer.echo(f"  adapt merge '{best['expression']}' {' '.join(models)}{chosen} -o merged/")


def _check_writable(template: Template, folder: Path) -> None:
    from merge.engine import check_output

    check_output(template.merge, folder)


def _write(outcome: Outcome, folder: Path) -> None:
    from merge.commands.output import progress_bar
    from merge.engine import write

    with progress_bar(False) as progress:
        write(outcome.template.at(outcome.trials[outcome.best].values), folder, progress=progress)
    typer.echo(f"wrote {folder}")
