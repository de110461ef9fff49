"""A tokenizer's `tokenizer.json`: reading it as it was published, and splicing new merges into it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from adapt.checkpoints import ModelLocation, read_json
from adapt.vocabulary.sentencepiece_model import extended

if TYPE_CHECKING:
    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerBase

    from adapt.vocabulary.learning import Piece

_FLAGS = ("single_word", "lstrip", "rstrip", "normalized", "special")


def published(location: ModelLocation, tokenizer: PreTrainedTokenizerBase) -> dict[str, Any]:
    """The content of the model's `tokenizer.json`.

    The file itself, since the loaders of some families rebuild parts of it; where a model has none, what its loaded
    tokenizer writes. Tokens that only `tokenizer_config.json` adds are listed with the others, under their ids.
    """
    path = _file_of(location, "tokenizer.json")
    document = read_json(path) if path else json.loads(tokenizer.backend_tokenizer.to_str())
    listed = document.setdefault("added_tokens", [])
    known = {token["content"] for token in listed}
    for index, token in sorted(tokenizer.added_tokens_decoder.items()):
        if token.content not in known:
            listed.append({"id": index, "content": token.content} | {flag: getattr(token, flag) for flag in _FLAGS})
    return document


def core_of(document: Mapping[str, Any]) -> Tokenizer:
    """The tokenizer that a `tokenizer.json` describes, as the library itself reads it."""
    from tokenizers import Tokenizer

    return Tokenizer.from_str(json.dumps(document, ensure_ascii=False))


def first_free_id(document: Mapping[str, Any]) -> int:
    """One more than the largest id in use, by a piece or by an added token."""
    added = (token["id"] for token in document["added_tokens"])
    return 1 + max(*document["model"]["vocab"].values(), *added, -1)


def spliced(document: Mapping[str, Any], pieces: Sequence[Piece], strings: Mapping[int, str]) -> dict[str, Any]:
    """The same `tokenizer.json` with the pieces as real merges of the lowest priority; `strings` are the old pieces.

    BPE always makes the merge of the highest priority first, so all old merges are done before a new one begins: the
    new segmentation is the old one with some neighbours joined. Added tokens that stood behind the vocabulary are
    entered in it under their ids; otherwise the library, which numbers them by the vocabulary's size, would move them.
    """
    model = dict(document["model"])
    added = [dict(token) for token in document["added_tokens"]]
    model["vocab"] = model["vocab"] | {token["content"]: token["id"] for token in added}
    model["merges"] = list(model["merges"])
    written = dict(strings)
    as_text = bool(model["merges"]) and isinstance(model["merges"][0], str)
    for piece in pieces:
        if not piece.spelled:  # a single character needs no merge
            pair = [written[piece.left], written[piece.right]]
            model["merges"].append(" ".join(pair) if as_text else pair)
        model["vocab"][piece.string] = piece.id
        written[piece.id] = piece.string
    return {**document, "added_tokens": added, "model": model}


def write_tokenizer(
    tokenizer: PreTrainedTokenizerBase,
    document: Mapping[str, Any],
    folder: Path,
    location: ModelLocation | None = None,
) -> None:
    """Write a tokenizer's folder with another `tokenizer.json`; its settings and chat template are kept.

    Where the model at `location` has a SentencePiece `tokenizer.model`, that is written as well with the new pieces,
    for programs that read it instead (conversion to GGUF). Vocabulary files of other formats are left out: they would
    describe the old vocabulary.
    """
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save_pretrained(folder)
    for stale in ("vocab.json", "merges.txt", "added_tokens.json", "tokenizer.model"):
        (folder / stale).unlink(missing_ok=True)
    (folder / "tokenizer.json").write_text(json.dumps(document, ensure_ascii=False, indent=2), encoding="utf-8")
    old = _file_of(location, "tokenizer.model") if location is not None else None
    if old is not None and document["model"].get("byte_fallback"):
        (folder / "tokenizer.model").write_bytes(extended(old.read_bytes(), document, str(old)))


def _file_of(location: ModelLocation, name: str) -> Path | None:
    """A file of the model on this machine, if it has one."""
    from transformers.utils import cached_file

    path = cached_file(location.path, name, revision=location.revision, _raise_exceptions_for_missing_entries=False)
    return Path(path) if path else None
