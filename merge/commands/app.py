"""`adapt merge`: an expression or a YAML file is merged; everything else is a command by its name."""

from __future__ import annotations

from typing import Any

import typer
from typer.core import TyperGroup

from merge.commands import inspection, lep, low_rank, merging, methods, vectors, verification


class _ExpressionFirst(TyperGroup):
    """A group whose nameless command is the merge itself: `adapt merge 'a + 0.5 * (b - c)' ...`."""

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """What is no command's name is an expression, a YAML file or an option of a merge."""
        if args and args[0] not in self.commands:
            args = ["write", *args]
        return super().resolve_command(ctx, args)


app = typer.Typer(
    cls=_ExpressionFirst,
    help="Merge checkpoints: adapt merge 'cpt + 0.8 * (instruct - base)' cpt=... instruct=... base=... -o merged/",
    no_args_is_help=True,
    rich_markup_mode=None,  # brackets in an expression are no markup
    context_settings={"help_option_names": ["-h", "--help"], "ignore_unknown_options": True},
    epilog="The merge itself needs no command's name; its options: adapt merge write --help",
)
app.command("write", epilog="Example: adapt merge 'ties(base, [a: 1, b: 0.5], density=0.3)' base=.. a=.. b=.. -o out")(
    merging.write
)
app.command("extract", epilog="Example: adapt merge extract 'chat - base' chat=... base=... -o residual/")(
    vectors.extract
)
app.command("apply", epilog="Example: adapt merge apply residual/ runs/cpt --weight 0.8 -o merged/")(vectors.apply)
app.command("info", epilog="Example: adapt merge info residual/")(vectors.info)
app.command("lep", epilog="Example: adapt merge lep cpt=runs/cpt base=... instruct=... -o merged/")(lep.lep)
app.command("extract-lora", epilog="Example: adapt merge extract-lora 'chat - base' chat=.. base=.. -r 16 -o lora/")(
    low_rank.extract_lora
)
app.command("inspect", epilog="Example: adapt merge inspect cpt=runs/cpt instruct=... base=... -o report/")(
    inspection.inspect
)
app.command("verify", epilog="Example: adapt merge verify merged/")(verification.verify)
app.command("methods")(methods.methods)


def main() -> None:
    """Run `adapt merge` on its own: `python -m merge`."""
    app()
