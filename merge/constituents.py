"""Of which older tokens a token is put together, read from the merges of a byte-pair tokenizer."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path

from merge.checkpoint import read_json
from merge.errors import MergeError


def constituents(folder: Path, name: str, known: Collection[str]) -> dict[str, tuple[str, ...]]:
    """The `known` tokens that every token of `folder`'s tokenizer.json is made of, left to right.

    A known token is made of itself. Others are taken apart by the first merge that makes them, and their parts again;
    tokens that no merges lead back to known ones are left out. Raises MergeError for a tokenizer without merges.
    """
    model = read_json(folder / "tokenizer.json")["model"]
    if not isinstance(model.get("merges"), list) or not isinstance(model["vocab"], dict):
        raise MergeError(
            f"the tokenizer of '{name}' is a {model.get('type')} without merges, so its new tokens cannot be taken "
            "apart; learn from the shared tokens alone (overlap)"
        )
    halves: dict[str, tuple[str, str]] = {}
    for merge in model["merges"]:
        left, right = merge if isinstance(merge, list) else merge.split(" ", 1)
        halves.setdefault(left + right, (left, right))
    found: dict[str, tuple[str, ...]] = {}
    for token in model["vocab"]:
        parts = _taken_apart(token, halves, known)
        if parts:
            found[token] = parts
    return found


def _taken_apart(token: str, halves: Mapping[str, tuple[str, str]], known: Collection[str]) -> tuple[str, ...]:
    open_parts, parts = [token], []
    while open_parts:
        part = open_parts.pop()
        if part in known:
            parts.append(part)
        elif part in halves:
            open_parts += reversed(halves[part])
        else:
            return ()
    return tuple(parts)
