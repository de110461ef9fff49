"""Plain text as tokens, with the separators that the tokenizer itself puts around a document."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from adapt.errors import AdaptError

_PROBE = "x"


class Encoded(NamedTuple):
    """One document as tokens.

    `trained` has 1 for each id that carries loss (None: all do), `bytes` are the text's in UTF-8, `separators` is the
    number of ids that were added around it. `joined` is 1 where a token holds the end of a prompt and the beginning of
    the answer: the model will never be asked like this, because a prompt ends with a token of its own.
    """

    ids: list[int]
    trained: list[int] | None
    bytes: int
    separators: int
    joined: int = 0


def tokenizer_hash(tokenizer: Any) -> str:
    """A hash of all that decides how the tokenizer cuts text: vocabulary, merges, special tokens, chat template.

    Raises AdaptError for a tokenizer without a fast backend.
    """
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        raise AdaptError(f"tokenizer '{tokenizer.name_or_path}' has no fast form; convert it to tokenizer.json first")
    state = json.loads(backend.to_str())
    for changing in ("truncation", "padding"):
        state.pop(changing, None)
    parts = [state, tokenizer.chat_template, dict(tokenizer.special_tokens_map)]
    text = json.dumps(parts, sort_keys=True, ensure_ascii=False, default=str)
    return hashlib.blake2b(text.encode("utf-8"), digest_size=16).hexdigest()


@dataclass(frozen=True)
class Separators:
    """What stands before and after each document: the tokenizer's own beginning (often none), and the end of text."""

    before: tuple[int, ...]
    after: tuple[int, ...]

    @classmethod
    def of(cls, tokenizer: Any) -> Separators:
        """The tokenizer's own additions, with the end of text added where it does not add it itself.

        Raises AdaptError for a tokenizer without an end-of-text token: nothing would tell documents apart.
        """
        if tokenizer.eos_token_id is None:
            raise AdaptError(
                f"tokenizer '{tokenizer.name_or_path}' has no eos_token, so the model cannot learn where a text ends; "
                "set eos_token in its tokenizer_config.json"
            )
        before, after = own_additions(tokenizer)
        if tokenizer.eos_token_id not in after:
            after = (*after, tokenizer.eos_token_id)
        return cls(before, after)

    def lacking(self, ids: list[int]) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """The separators that the document does not already have at its two ends, so that none stands twice."""
        before = () if tuple(ids[: len(self.before)]) == self.before else self.before
        after = () if tuple(ids[-len(self.after) :]) == self.after else self.after
        return before, after


def own_additions(tokenizer: Any) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The special tokens that the tokenizer by its own default puts before and after a text."""
    plain = tokenizer(_PROBE, add_special_tokens=False)["input_ids"]
    whole = tokenizer(_PROBE)["input_ids"]
    for start in range(len(whole) - len(plain) + 1):
        if whole[start : start + len(plain)] == plain:
            return tuple(whole[:start]), tuple(whole[start + len(plain) :])
    raise AdaptError(f"tokenizer '{tokenizer.name_or_path}' cuts a text differently when it adds special tokens")


def encode_texts(tokenizer: Any, separators: Separators, texts: Sequence[str]) -> list[Encoded]:
    """Texts as tokens, in one call of the fast tokenizer; every token carries loss."""
    batch = tokenizer(list(texts), add_special_tokens=False, return_attention_mask=False, verbose=False)["input_ids"]
    encoded = []
    for text, ids in zip(texts, batch, strict=True):
        before, after = separators.lacking(ids)
        size = len(text.encode("utf-8"))
        encoded.append(Encoded([*before, *ids, *after], None, size, len(before) + len(after)))
    return encoded
