"""SentencePiece models for the tests: trained on the spot or given, with the `tokenizer.json` that says the same."""

from __future__ import annotations

import io
import json
from typing import Any


def parsed(content: bytes):
    from sentencepiece.sentencepiece_model_pb2 import ModelProto

    proto = ModelProto()
    proto.ParseFromString(content)
    return proto


def processor(content: bytes):
    """SentencePiece itself."""
    from sentencepiece import SentencePieceProcessor

    return SentencePieceProcessor(model_proto=content)


def trained(lines: list[str], size: int = 400, kind: str = "bpe") -> bytes:
    """A model with the settings of Llama-2."""
    from sentencepiece import SentencePieceTrainer

    written = io.BytesIO()
    SentencePieceTrainer.train(
        sentence_iterator=iter(lines),
        model_writer=written,
        model_type=kind,
        vocab_size=size,
        byte_fallback=True,
        split_digits=True,
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        allow_whitespace_only_pieces=True,
        character_coverage=1.0,
        minloglevel=2,
    )
    return written.getvalue()


def document_of(content: bytes) -> dict[str, Any]:
    """The `tokenizer.json` of a model, as Llama-2 and Mistral publish theirs: merges in the order of the scores."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers

    proto = parsed(content)
    vocabulary = {piece.piece: index for index, piece in enumerate(proto.pieces)}
    special = [piece.piece for piece in proto.pieces if piece.type in (piece.UNKNOWN, piece.CONTROL)]
    scored = sorted(proto.pieces, key=lambda piece: -piece.score)  # stable: equal scores by id
    pairs = [
        (piece.piece[:cut], piece.piece[cut:])
        for piece in scored
        if piece.type == piece.NORMAL
        for cut in range(1, len(piece.piece))
        if piece.piece[:cut] in vocabulary and piece.piece[cut:] in vocabulary
    ]
    tokenizer = Tokenizer(models.BPE(vocabulary, pairs, unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    steps = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    tokenizer.decoder = decoders.Sequence(steps)
    tokenizer.add_special_tokens([AddedToken(token, normalized=False, special=True) for token in special])
    return json.loads(tokenizer.to_str())
