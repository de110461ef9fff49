"""Taking tokens out of a `tokenizer.json` and closing up the ids, and following that wherever an id is written."""

from __future__ import annotations

import copy
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from adapt.errors import AdaptError

if TYPE_CHECKING:
    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerBase


def pair_of(merge: str | Sequence[str]) -> tuple[str, str]:
    """The two parts of a merge; older files write it as one text with a space between the two."""
    left, right = merge.split(" ") if isinstance(merge, str) else merge
    return left, right


def closed_up(document: Mapping[str, Any], gone: Collection[int]) -> tuple[dict[str, Any], list[int]]:
    """The `tokenizer.json` without the tokens whose ids are `gone`, and `order`: the former id of each id.

    What stays keeps its order, so byte pieces and special tokens at the front stay where they are; ids that no token
    had close up as well. Merges that make or need a token that goes are left out. Raises AdaptError where a special
    or added token would go.
    """
    moved = copy.deepcopy(dict(document))
    model, added = moved["model"], moved.setdefault("added_tokens", [])
    ids = dict(model["vocab"]) | {token["content"]: token["id"] for token in added}
    lost = [token["content"] for token in added if token["id"] in gone]
    if lost:
        raise AdaptError(f"the special token '{lost[0]}' cannot be taken out of the vocabulary")
    order = sorted({index for index in ids.values() if index not in gone})
    place = {former: index for index, former in enumerate(order)}
    kept = {token: place[index] for token, index in ids.items() if index in place}
    model["vocab"] = dict(sorted(kept.items(), key=lambda item: item[1]))
    model["merges"] = [merge for merge in model["merges"] if _stands(pair_of(merge), kept)]
    for token in added:
        token["id"] = kept[token["content"]]
    _follow(moved.get("post_processor"), kept)
    if moved.get("padding"):
        moved["padding"]["pad_id"] = kept[moved["padding"]["pad_token"]]
    return moved, order


def _stands(pair: tuple[str, str], kept: Mapping[str, int]) -> bool:
    return pair[0] in kept and pair[1] in kept and "".join(pair) in kept


def _follow(part: Any, ids: Mapping[str, int]) -> None:
    """Write the new ids of the special tokens into a post-processor."""
    if not part:
        return
    for inner in part.get("processors", ()):
        _follow(inner, ids)
    for key in ("sep", "cls"):
        if key in part:
            part[key] = [part[key][0], ids[part[key][0]]]
    special = part.get("special_tokens")
    for entry in special.values() if isinstance(special, dict) else ():
        entry["ids"] = [ids[token] for token in entry["tokens"]]


def check_added(loaded: PreTrainedTokenizerBase, document: Mapping[str, Any]) -> None:
    """Every added token has the id in the loaded tokenizer that the file says."""
    for token in document["added_tokens"]:
        index = loaded.convert_tokens_to_ids(token["content"])
        if index != token["id"]:
            raise AdaptError(
                f"transformers ({type(loaded).__name__}) gives the token '{token['content']}' the id {index}, "
                f"tokenizer.json the id {token['id']}"
            )


def check_kept_text(
    before: Tokenizer, after: Tokenizer, order: Sequence[int], gone: Collection[int], texts: Iterable[str]
) -> None:
    """Text that uses none of the tokens `gone` is cut as before. Raises AdaptError with the text where it is not."""
    gone = set(gone)
    for text in texts:
        old = before.encode(text, add_special_tokens=False).ids
        new = after.encode(text, add_special_tokens=False).ids
        if not gone & set(old) and [order[index] for index in new] != old:
            raise AdaptError(f"without the tokens taken out, this text is cut in other places: {text[:80]!r}")


def check_round_trip(before: Tokenizer, after: Tokenizer, texts: Iterable[str]) -> None:
    """Text comes back from the tokens after a change as it did before it. Raises AdaptError where it does not."""
    for text in texts:
        old, new = (
            core.decode(core.encode(text, add_special_tokens=False).ids, skip_special_tokens=False)
            for core in (before, after)
        )
        if old != new:
            raise AdaptError(f"the changed tokenizer does not give this text back: {text[:80]!r}")
