"""SentencePiece BPE in GGUF: of two neighbouring pairs the one is merged whose piece has the higher score."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from adapt.errors import AdaptError
from adapt.export.gguf.types import NORMAL, UNKNOWN, UNUSED


def scores_of(folder: Path, document: Mapping[str, Any], names: Sequence[str], types: Sequence[int]) -> list[float]:
    """A score for each row: from `tokenizer.model` where there is one, else the rank of the merge that makes the piece.

    Raises AdaptError where `tokenizer.model` and `tokenizer.json` do not have the same pieces.
    """
    file = folder / "tokenizer.model"
    return _from_model(file, names, types) if file.exists() else from_merges(document, names)


def _from_model(file: Path, names: Sequence[str], types: Sequence[int]) -> list[float]:
    from sentencepiece.sentencepiece_model_pb2 import ModelProto

    proto = ModelProto()
    proto.ParseFromString(file.read_bytes())
    scores = [0.0] * len(names)
    for row, (name, kind) in enumerate(zip(names, types, strict=True)):
        piece = proto.pieces[row] if row < len(proto.pieces) else None
        if piece is not None:
            scores[row] = piece.score
        if kind == NORMAL and (piece is None or piece.piece != name):
            found = "no piece" if piece is None else f"'{piece.piece}'"
            raise AdaptError(f"'{file}' has {found} at {row}, tokenizer.json has '{name}'; one of them is stale")
        if kind == UNUSED:
            scores[row] = -1e6
    return scores


def from_merges(document: Mapping[str, Any], names: Sequence[str]) -> list[float]:
    """Minus the rank of the first merge that makes each piece; 0 for pieces that nothing makes.

    This cuts text as the merges do if the merges that make one piece stand behind each other. Raises AdaptError
    otherwise: scores could not say it.
    """
    ranks: dict[str, int] = {}
    last = ""
    for rank, merge in enumerate(document["model"]["merges"]):
        piece = merge.replace(" ", "") if isinstance(merge, str) else "".join(merge)
        if piece in ranks and piece != last:
            raise AdaptError(
                f"GGUF: merges that make '{piece}' stand apart, which scores cannot say; add tokenizer.model"
            )
        ranks.setdefault(piece, rank)
        last = piece
    return [float(-ranks[name]) if name in ranks else 0.0 for name in names]


def rebuilt(tokens: Sequence[str], scores: Sequence[float], types: Sequence[int], space: bool) -> Any:
    """SentencePiece itself over what a GGUF file holds; `space` puts one before a text."""
    from sentencepiece import SentencePieceProcessor
    from sentencepiece.sentencepiece_model_pb2 import ModelProto, TrainerSpec

    proto = ModelProto()
    for token, score, kind in zip(tokens, scores, types, strict=True):
        proto.pieces.add(piece=token, score=score, type=kind)
    proto.trainer_spec.model_type, proto.trainer_spec.byte_fallback = TrainerSpec.BPE, True
    proto.trainer_spec.unk_id, proto.trainer_spec.bos_id, proto.trainer_spec.eos_id = types.index(UNKNOWN), -1, -1
    proto.normalizer_spec.name, proto.normalizer_spec.add_dummy_prefix = "identity", space
    proto.normalizer_spec.remove_extra_whitespaces = False
    return SentencePieceProcessor(model_proto=proto.SerializeToString())
