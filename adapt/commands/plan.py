"""`adapt plan`: will it fit, how long, how big, before anything is fetched or loaded."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Annotated

import typer

from adapt.commands.errors import plain_errors


def plan(
    recipe: Annotated[Path, typer.Argument(metavar="RECIPE", help="The recipe, a YAML file.", show_default=False)],
    gpu: Annotated[
        str | None,
        typer.Option(metavar="GPU", help="A GPU by name (rtx4090, h200) or memory (24GB).", show_default=False),
    ] = None,
    overrides: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="KEY=VALUE",
            help="Put a value into the recipe first; may be given several times.",
            show_default=False,
        ),
    ] = None,
    throughput: Annotated[
        float | None,
        typer.Option(metavar="TOKENS/S", help="Tokens that are trained in a second.", show_default=False),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")] = False,
) -> None:
    """Say whether a recipe fits, how long it takes and how big it gets.

    Nothing is fetched and no weight is loaded. Without --gpu the plan is for this machine.
    """
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    with plain_errors(f"adapt plan {recipe}"):
        from adapt.display import Display
        from adapt.planning.show import show
        from adapt.recipe.planning import plan as plan_recipe

        found = plan_recipe(recipe, overrides or (), gpu=gpu, throughput=throughput)
        typer.echo(json.dumps(found.as_dict(), indent=2)) if as_json else show(found, Display())
