"""The tokens in a `tokenizer.json`, read without the merges, which are more than half of the file."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from merge.errors import MergeError

_KEY = re.compile(r'"(added_tokens|vocab)"\s*:\s*(?=[\[{])')


def tokens_in(path: Path) -> tuple[dict[str, int], list[dict[str, Any]]]:
    """Id by token, and the entries of the added tokens.

    The two parts are found by their keys: inside of strings every quotation mark is escaped, and a token that is
    itself called `vocab` has a number behind it, so they cannot be mistaken. Where a key stands more than once the
    whole file is read. Raises MergeError for a file that is missing, broken, or no tokenizer.
    """
    try:
        text = path.read_text(encoding="utf-8")
        found = {match[1]: match.end() for match in _KEY.finditer(text)}
        decoder = json.JSONDecoder()
        if len(_KEY.findall(text)) == len(found) == 2 and text.rstrip().endswith("}"):
            vocabulary, added = (decoder.raw_decode(text, found[key])[0] for key in ("vocab", "added_tokens"))
        else:
            document = json.loads(text)
            vocabulary, added = document["model"]["vocab"], document.get("added_tokens") or []
        if isinstance(vocabulary, list):
            vocabulary = {entry[0]: index for index, entry in enumerate(vocabulary)}
        if not isinstance(vocabulary, dict):
            raise TypeError
    except (OSError, ValueError) as error:
        raise MergeError(f"cannot read '{path}': {error}") from error
    except (KeyError, TypeError, IndexError):
        raise MergeError(f"'{path}' is no tokenizer: it has no list of tokens under model, vocab") from None
    return vocabulary, added
