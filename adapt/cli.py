"""The commands. What they do lies in `adapt.recipe`; here is what a person types and sees."""

from __future__ import annotations

import json
import os
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Annotated, Literal

import typer

from adapt import __version__
from adapt.commands import chat, completion, doctor, evaluate, report, runs
from adapt.commands.errors import plain_errors
from adapt.commands.mixture import mixture_app
from adapt.commands.plan import plan as plan_recipe
from adapt.commands.vocab import vocab_app
from adapt.merging.command import search as search_coefficients
from merge.commands import app as merge_app

app = typer.Typer(
    name="adapt",
    help="Adapt an open-weights language model to a language or a domain: one recipe from vocabulary to checkpoint.",
    epilog="Begin with: adapt init lang -o my.yaml, then adapt check my.yaml, then adapt run my.yaml",
    no_args_is_help=True,
    add_completion=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)

merge_app.command(
    "search",
    epilog="Example: adapt merge search 'cpt + w * (instruct - base)' cpt=... --free w=0..1.5 --text uk.txt -o found/",
)(search_coefficients)
app.add_typer(merge_app, name="merge")
app.add_typer(vocab_app, name="vocab")
app.add_typer(mixture_app, name="mixture")
app.command("plan", epilog="Example: adapt plan recipes/lang.yaml --gpu 24GB")(plan_recipe)

RecipeFile = Annotated[Path, typer.Argument(metavar="RECIPE", help="The recipe, a YAML file.", show_default=False)]
Starter = Literal["lang", "domain", "merge"]
Overrides = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="KEY=VALUE",
        help="Put a value into the recipe first, for example stages.cpt.tokens=500k; may be given several times.",
        show_default=False,
    ),
]


def main() -> None:
    """The entry point of the `adapt` command."""
    app()


def _plain_errors(again: str) -> AbstractContextManager[None]:
    return plain_errors(f"stopped; what is finished is kept, go on with: {again}")


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"adapt {__version__}")
        raise typer.Exit


@app.callback()
def _common(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and stop.")
    ] = False,
) -> None:
    pass


@app.command(epilog="Example: adapt run recipes/lang.yaml --set stages.cpt.tokens=500k --until cpt")
def run(
    recipe: RecipeFile,
    overrides: Overrides = None,
    until: Annotated[
        str | None,
        typer.Option(
            metavar="STAGE", help="Stop after this stage.", show_default=False, autocompletion=completion.stages
        ),
    ] = None,
    force: Annotated[
        list[str] | None,
        typer.Option(
            metavar="STAGE",
            help="Make this stage again, and what depends on it.",
            show_default=False,
            autocompletion=completion.stages,
        ),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would be done.")] = False,
) -> None:
    """Do what is missing of a recipe.

    Finished stages are kept; after a kill, run the same command again and it goes on from the last checkpoint.
    """
    with _plain_errors(f"adapt run {recipe}"):
        from adapt.recipe import run as run_recipe

        run_recipe(recipe, overrides or (), until=until, force=force or (), dry_run=dry_run)


@app.command(epilog="Example: adapt check my.yaml --set stages.cpt.tokens=500k")
def check(recipe: RecipeFile, overrides: Overrides = None) -> None:
    """Say everything that is wrong with a recipe.

    If nothing is, print it with all defaults filled in, and the plan of its stages.
    """
    os.environ.setdefault("HF_HUB_OFFLINE", "1")  # a look at a recipe downloads nothing
    with _plain_errors(f"adapt check {recipe}"):
        from adapt.display import Display
        from adapt.recipe import load
        from adapt.recipe.show import resolved, show_plan

        loaded = load(recipe, overrides or ())
        typer.echo(resolved(loaded.recipe))
        show_plan(loaded, Display())


@app.command(epilog="Example: adapt init lang -o my.yaml")
def init(
    kind: Annotated[Starter, typer.Argument(help="What for: a language, a domain, or a merge of models.")] = "lang",
    output: Annotated[
        Path | None, typer.Option("--output", "-o", metavar="FILE", help="Where to write it.", show_default=False)
    ] = None,
) -> None:
    """Write a commented recipe to fill in.

    The comments say what each key means. An existing file is never overwritten.
    """
    with _plain_errors("adapt init"):
        from adapt.recipe.commented import write_starter

        path = output or Path(f"{kind}.yaml")
        write_starter(kind, path)
        typer.echo(f"wrote {path}; fill in models and files, then: adapt check {path}")


@app.command(epilog="Example: adapt schema > recipe.schema.json")
def schema() -> None:
    """Print the JSON Schema of recipes.

    With it editors complete keys, show what they mean and mark mistakes.
    """
    with _plain_errors("adapt schema"):
        from adapt.recipe.json_schema import json_schema

        typer.echo(json.dumps(json_schema(), indent=2, ensure_ascii=False))


app.command("eval", epilog=evaluate.EPILOG)(evaluate.evaluate)
app.command("report", epilog=report.REPORT_EPILOG)(report.report)
app.command("compare", epilog=report.COMPARE_EPILOG)(report.compare)
app.command("runs", epilog=runs.EPILOG)(runs.runs)
app.command("chat", epilog=chat.EPILOG)(chat.chat)
app.command("doctor", epilog=doctor.EPILOG)(doctor.doctor)
