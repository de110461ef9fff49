"""SentencePiece's own file, `tokenizer.model`, brought in line with a `tokenizer.json`.

Programs that do not read `tokenizer.json` (conversion to GGUF, SentencePiece itself) take the pieces from it: an
id is a place in its list, and of two merges the one whose piece has the higher score comes first.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from adapt.errors import AdaptError

if TYPE_CHECKING:
    from sentencepiece.sentencepiece_model_pb2 import ModelProto


def extended(content: bytes, document: Mapping[str, Any], name: str) -> bytes:
    """The protobuf `content` with the pieces of `document`, a `tokenizer.json` that was made from it.

    A piece that the protobuf has keeps its score and type. A new one is of type NORMAL, its score strictly below that
    of all old pieces and of all before it in the order of the merges, as single-precision numbers; tokens that only
    `tokenizer.json` adds are CONTROL or USER_DEFINED. Raises AdaptError for a file that is not a SentencePiece BPE
    model, and where an id has no token.
    """
    proto = _parsed(content, name)
    by_id = {index: token for token, index in document["model"]["vocab"].items()}
    added = {token["content"]: bool(token["special"]) for token in document["added_tokens"]}
    by_id |= {token["id"]: token["content"] for token in document["added_tokens"]}
    old = list(proto.pieces)
    scores = _scores(proto, _new_in_order(document, {piece.piece for piece in old} | set(added)))
    where = {piece.piece: piece for piece in old}
    entries = []
    for index in range(1 + max(by_id)):
        if index not in by_id:
            raise AdaptError(f"'{name}' cannot be extended: no token has the id {index}, but larger ids are in use")
        entry = where.get(by_id[index]) or _kept(old, index, by_id[index], added)
        entries.append(entry or _entry(proto, by_id[index], scores, added))
    del proto.pieces[:]
    proto.pieces.extend(entries)
    proto.trainer_spec.vocab_size = len(entries)
    return proto.SerializeToString()


def _parsed(content: bytes, name: str) -> ModelProto:
    from google.protobuf.message import DecodeError
    from sentencepiece.sentencepiece_model_pb2 import ModelProto, TrainerSpec

    proto = ModelProto()
    try:
        proto.ParseFromString(content)
    except DecodeError as error:
        raise AdaptError(f"'{name}' is not a SentencePiece model") from error
    if proto.trainer_spec.model_type != TrainerSpec.BPE:
        kind = TrainerSpec.ModelType.Name(proto.trainer_spec.model_type)
        raise AdaptError(f"'{name}' is a SentencePiece model of type {kind}, but tokenizer.json beside it is BPE")
    return proto


def _new_in_order(document: Mapping[str, Any], known: set[str]) -> list[str]:
    """New pieces in the order in which their merges come; characters, which nothing merges, first."""
    model = document["model"]
    merged: dict[str, None] = {}
    for merge in model["merges"]:
        merged.setdefault("".join(merge.split(" ")) if isinstance(merge, str) else "".join(merge))
    alone = sorted(model["vocab"].keys() - merged.keys(), key=model["vocab"].__getitem__)
    return [piece for piece in (*alone, *merged) if piece not in known]


def _scores(proto: ModelProto, new: Iterable[str]) -> dict[str, float]:
    """Falling scores that single precision tells apart."""
    lowest = min((piece.score for piece in proto.pieces if piece.type == piece.NORMAL), default=0.0)
    step = 2.0 ** max(0, math.frexp(2 * abs(lowest))[1] - 24)
    start = math.floor(lowest / step) * step
    return {piece: start - step * rank for rank, piece in enumerate(new, start=1)}


def _kept(old: list[Any], index: int, token: str, added: Mapping[str, bool]) -> Any:
    """The old entry of a special token that `tokenizer.json` calls by another name."""
    if index < len(old) and token in added and old[index].type in (old[index].UNKNOWN, old[index].CONTROL):
        return old[index]
    return None


def _entry(proto: ModelProto, token: str, scores: Mapping[str, float], added: Mapping[str, bool]) -> Any:
    kinds = type(proto).SentencePiece
    if token in added:
        return kinds(piece=token, score=0.0, type=kinds.CONTROL if added[token] else kinds.USER_DEFINED)
    return kinds(piece=token, score=scores[token], type=kinds.NORMAL)
