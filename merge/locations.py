"""Where models lie: folders, and what the hub has."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from merge.errors import MergeError

_HUB = re.compile(r"[\w.-]+/[\w.-]+(@[\w./-]+)?")
_PATTERNS = ["*.json", "*.safetensors", "*.jinja", "*.model", "*.txt"]


def named(pairs: Sequence[str]) -> dict[str, str]:
    """`["cpt=runs/x", ...]` as places by name. Raises MergeError for a part that is no such pair."""
    found: dict[str, str] = {}
    for text in pairs:
        name, sign, place = text.partition("=")
        if not sign or not name or not place:
            raise MergeError(f"'{text}' is not of the form NAME=FOLDER, for example base=models/qwen")
        if name in found:
            raise MergeError(f"'{name}' is given twice, as '{found[name]}' and as '{place}'")
        found[name] = place
    return found


def folders_of(names: Iterable[str], places: dict[str, str]) -> dict[str, Path]:
    """A folder for each name of an expression; a name for which no place is given may itself be a folder.

    Raises MergeError for a name without a place, and for a place that no name stands for.
    """
    names = list(names)
    unused = [name for name in places if name not in names]
    if unused:
        raise MergeError(
            f"'{unused[0]}={places[unused[0]]}' is given, but the expression does not name '{unused[0]}' (it names "
            f"{', '.join(names)})"
        )
    lacking = [name for name in names if name not in places and not Path(name).is_dir()]
    if lacking:
        raise MergeError(f"the expression names '{lacking[0]}'; say where it is: {lacking[0]}=FOLDER")
    return {name: folder_of(places.get(name, name)) for name in names}


def folder_of(place: str) -> Path:
    """A folder as it is; a hub id (`org/name`, `org/name@revision`) from the hub's cache, or downloaded.

    Raises MergeError where there is neither.
    """
    path = Path(place).expanduser()
    if path.is_dir():
        return path
    if not _HUB.fullmatch(place) or place.startswith((".", "/")):
        raise MergeError(f"'{place}' is no folder")
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError, RepositoryNotFoundError

    name, _, revision = place.partition("@")
    try:
        return Path(snapshot_download(name, revision=revision or None, allow_patterns=_PATTERNS))
    except (HfHubHTTPError, LocalEntryNotFoundError, RepositoryNotFoundError, OSError, ValueError) as error:
        reason = str(error).strip().splitlines()[0]
        raise MergeError(f"'{place}' is no folder here, and the hub does not give it: {reason}") from error
