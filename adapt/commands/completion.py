"""What the shell offers after Tab."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import typer


def stages(context: typer.Context, incomplete: str) -> Iterator[str]:
    """The stages of the recipe that stands on the command line; none where that cannot be read."""
    recipe = context.params.get("recipe")
    if recipe is None:
        return
    from adapt.errors import AdaptError
    from adapt.recipe.document import parse

    try:
        value = parse(Path(recipe).read_bytes(), str(recipe)).value
    except (OSError, AdaptError):
        return
    entries = value.get("stages") if isinstance(value, dict) else None
    yield from (name for name in entries or () if isinstance(name, str) and name.startswith(incomplete))
