"""Which kinds of tokenizer can grow, and how each writes its pieces."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from adapt.errors import AdaptError
from adapt.vocabulary.byte_level import ByteLevel, is_byte_level, not_plain_bpe
from adapt.vocabulary.sentencepiece import SentencePiece, first_missing_byte, merges_bytes


def format_of(document: Mapping[str, Any], name: str) -> ByteLevel | SentencePiece:
    """How a `tokenizer.json` writes its pieces. Raises AdaptError, saying why, where it cannot grow."""
    if reason := _reason(document):
        raise AdaptError(
            f"cannot expand the vocabulary of '{name}': {reason}; expand_vocabulary grows byte-level BPE (GPT-2, "
            "Llama-3, Qwen, tekken) and SentencePiece BPE with byte fallback (Llama-2, Mistral v1)"
        )
    return ByteLevel() if is_byte_level(document) else SentencePiece.of(document)


def _reason(document: Mapping[str, Any]) -> str | None:
    """Why a tokenizer cannot grow; None if it can."""
    model = document["model"]
    if (reason := not_plain_bpe(document)) or is_byte_level(document):
        return reason
    if not model.get("byte_fallback"):
        return "it is BPE over characters (SentencePiece) without byte fallback"
    if (missing := first_missing_byte(model["vocab"])) is not None:
        return f"it falls back to bytes, but has no piece {missing}"
    return "it merges pieces of bytes" if merges_bytes(model["merges"]) else None
