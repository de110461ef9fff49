"""What must hold of a grown tokenizer; checked on a sample in every run.

I1 ids are stable, I2 the new segmentation is the old one with neighbours joined (so I3: text without new pieces is
cut as before, and I7: no text becomes longer), I4 every new piece can be reached, I5 text comes back as before,
I6 the usual loader gives the same ids as the library on the file.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from adapt.errors import AdaptError
from adapt.vocabulary.splice import core_of

if TYPE_CHECKING:
    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerBase

    from adapt.vocabulary.learning import Piece

PROBES = (
    "Numbers 7, 42, 2024 and 3.14; dates 5/3/2020.\n\n\tTabs,   spaces \r\nand line ends  ",
    "naïve Straße — «цитата» “quote” हिन्दी 日本語テキスト ไทย العربية e\u0301 👩‍👩‍👧‍👦 \u200d\ufeff",
    "def f(x):\n    return x ** 2  # комментарий\n",
)


def parts_of(pieces: Sequence[Piece]) -> dict[int, tuple[int, ...]]:
    """The old ids that each new piece is made of, in the order of the text."""
    parts: dict[int, tuple[int, ...]] = {}
    for piece in pieces:
        parts[piece.id] = sum((parts.get(side, (side,)) for side in piece.made_of), ())
    return parts


def check_ids(base: Tokenizer, grown: Tokenizer) -> None:
    """I1: every old token, special ones included, keeps its id."""
    after = grown.get_vocab(with_added_tokens=True)
    for token, index in base.get_vocab(with_added_tokens=True).items():
        if after.get(token) != index:
            raise AdaptError(f"growing the tokenizer moved '{token}' from id {index} to {after.get(token)}")


def check_reachable(document: Mapping[str, Any], pieces: Sequence[Piece]) -> None:
    """I4: the merges alone, from bytes or characters, build every new piece from its own string."""
    plain = copy.copy(dict(document))
    plain["model"] = plain["model"] | {"ignore_merges": False}
    model = core_of(plain).model
    for piece in pieces:
        if [token.id for token in model.tokenize(piece.string)] != [piece.id]:
            raise AdaptError(f"the new piece '{piece.string}' (id {piece.id}) can never be produced by its merges")


def check_segmentation(base: Tokenizer, grown: Tokenizer, pieces: Sequence[Piece], texts: Iterable[str]) -> None:
    """I2 and I5 on some texts; I3 and I7 follow from I2.

    A character that had no piece is made of its byte pieces: in I2 they are its parts.
    """
    parts = parts_of(pieces)
    for text in texts:
        old = base.encode(text, add_special_tokens=False).ids
        new = grown.encode(text, add_special_tokens=False).ids
        if [part for index in new for part in parts.get(index, (index,))] != old:
            raise AdaptError(f"the grown tokenizer cuts this text in places where the base does not: {text[:80]!r}")
        decoded = grown.decode(new, skip_special_tokens=False)
        if decoded != base.decode(old, skip_special_tokens=False):
            raise AdaptError(f"the grown tokenizer does not give this text back: {text[:80]!r}")


def check_loader(
    loaded: PreTrainedTokenizerBase,
    grown: Tokenizer,
    texts: Iterable[str],
    before: tuple[PreTrainedTokenizerBase, Tokenizer] | None = None,
) -> None:
    """I6: the tokenizer that transformers loads gives the same ids as `tokenizer.json` itself.

    For some families the loader rebuilds the pre-tokenizer or drops settings of the file (methods that learn from
    the file would then learn pieces that never occur). Texts on which it does so with the base as well, given as
    `before`, are passed over: Llama-2's loader puts no space before a text that begins with one.
    """
    for text in texts:
        if before is not None and not _agree(*before, text):
            continue
        if not _agree(loaded, grown, text):
            raise AdaptError(
                f"transformers ({type(loaded).__name__}) does not read tokenizer.json as it is written: other ids for "
                f"{text[:60]!r}; its tokenizer_class or the model_type overrides the file"
            )


def _agree(loaded: PreTrainedTokenizerBase, core: Tokenizer, text: str) -> bool:
    expected = core.encode(text, add_special_tokens=False).ids
    return loaded(text, add_special_tokens=False, verbose=False)["input_ids"] == expected
