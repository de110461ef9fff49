"""`adapt_vocabulary.json`: what a vocabulary became, beside the model that has it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from adapt.vocabulary.revision import Revision

BESIDE_MODEL = "adapt_vocabulary.json"
VOCABULARY_FILE = "vocabulary.json"


def vocabulary_content(revision: Revision, order: Sequence[int] | None, mode: str) -> dict[str, Any]:
    """What later stages, merges and readers need to know of the change, as plain JSON data.

    `new_ids`, `new_tokens` and `merges` (the two ids that make each new token, or null) are in the written
    tokenizer's ids, `pieces` (what each new token is made of) in those of the base. Where ids moved, `old_ids` is the
    base's id of every written id, null for a new one, and `removed` are the base's tokens that went.
    """
    place = None if order is None else {former: index for index, former in enumerate(order)}

    def written(index: int) -> int:
        return index if place is None else place[index]

    content = {
        "mode": mode,
        "new_ids": [written(index) for index in revision.ids],
        "new_tokens": list(revision.tokens),
        "pieces": {token: list(parts) for token, parts in zip(revision.tokens, revision.parts, strict=True)},
        "merges": [None if pair is None else [written(index) for index in pair] for pair in revision.merges],
    }
    if order is not None:
        new = set(revision.ids)
        content["old_ids"] = [None if index in new else index for index in order]
        strings = {index: token for token, index in revision.base.get_vocab(with_added_tokens=True).items()}
        content["removed"] = [strings[index] for index in sorted(revision.gone)]
    return content


def write_vocabulary(content: Mapping[str, Any], folder: Path) -> None:
    """Write it into the stage's folder and beside the model."""
    text = json.dumps(content, ensure_ascii=False)
    for path in (folder / VOCABULARY_FILE, folder / "model" / BESIDE_MODEL):
        path.write_text(text, encoding="utf-8")
