"""`adapt doctor`: what the machine has, and what is missing for what."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Annotated

import typer

from adapt.commands.errors import plain_errors

EPILOG = "Example: adapt doctor --json > machine.json"
_SIGNS = {"ok": "✓", "missing": "–", "broken": "✗"}


def doctor(as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False) -> None:
    """Say what this machine has and what works on it.

    Small calculations are really made. Ends with 1 where something that adapt cannot do without is broken.
    """
    with plain_errors():
        from adapt.display import Display
        from adapt.doctor import examine

        found = examine()
        broken = [one for one in found if one.state == "broken"]
        if as_json:
            typer.echo(json.dumps([asdict(one) for one in found], ensure_ascii=False, indent=2))
        else:
            display = Display()
            rows = [[one.part, one.name, _SIGNS[one.state], one.value, one.fix] for one in found]
            display.table("this machine", ("", "", "", "found", "what to do"), rows)
            noun = "thing is" if len(broken) == 1 else "things are"
            names = ", ".join(one.name for one in broken)
            display.line(f"{len(broken)} {noun} broken: {names}" if broken else "nothing is broken")
        raise typer.Exit(1 if broken else 0)
