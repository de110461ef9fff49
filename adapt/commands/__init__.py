"""Groups of commands, each a typer application that `adapt.cli` adds under its name."""
