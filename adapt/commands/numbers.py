"""Numbers as people type them on a command line."""

from __future__ import annotations

from adapt.errors import AdaptError


def whole(option: str, text: str) -> int:
    """The whole number from 1 that an option says, as `500`, `20M` or `4k`. Raises AdaptError for anything else."""
    from adapt.settings import parse_number

    try:
        number = parse_number(text)
    except ValueError as error:
        raise AdaptError(f"{option}: {error}") from error
    if not isinstance(number, int) or number < 1:
        raise AdaptError(f"{option}: '{text}' is not a whole number from 1")
    return number
