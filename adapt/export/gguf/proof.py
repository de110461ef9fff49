"""A GGUF file read back: every tensor against the checkpoint, the vocabulary against `tokenizer.json`, and text."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import torch

from adapt.checkpoints import ModelLocation, load_tokenizer, read_json
from adapt.errors import AdaptError
from adapt.export.gguf.architecture import unpermuted
from adapt.export.gguf.pre_tokenizers import FAMILIES
from adapt.export.gguf.sentencepiece import rebuilt
from adapt.export.gguf.values import block_error, decoded
from adapt.export.gguf.write import ROPE_FACTORS, Plan
from adapt.export.tensors import read_tensor


def prove(plan: Plan, file: Path, texts: Iterable[str] = ()) -> dict[str, Any]:
    """Read the file with the gguf package's reader and compare it with what it was made from.

    Tensors in F32, F16 and BF16 are bit for bit the rounded ones of the checkpoint, those in Q8_0 within their blocks'
    error. Tokens, types, merges and scores are those of the tokenizer, as many as the embedding has rows; `texts` are
    cut into the same tokens. Raises AdaptError at the first thing that differs.
    """
    from gguf import GGUFReader

    reader = GGUFReader(file)
    found = {tensor.name: tensor for tensor in reader.tensors}
    worst, kinds = 0.0, dict.fromkeys((entry.kind for entry in plan.entries), 0)
    for entry in plan.entries:
        tensor = found.pop(entry.name)
        values = decoded(tensor.data, tensor.tensor_type.name.lower())
        values = values if entry.heads is None else unpermuted(values, entry.heads)
        error = _error(read_tensor(plan.checkpoint, entry.source), values, tensor.tensor_type.name.lower())
        if not error <= 1:
            raise AdaptError(f"'{file}': '{entry.name}' does not read back as '{entry.source}'")
        worst, kinds[entry.kind] = max(worst, error), kinds[entry.kind] + 1
    if set(found) - {ROPE_FACTORS}:
        raise AdaptError(f"'{file}' holds '{min(found)}', which the model does not have")
    count = _compare_vocabulary(plan, reader, file)
    return {"tensors": kinds, "tokens": count, "texts": _cut_texts(plan, reader, texts, file)} | (
        {"block_error": worst} if "q8_0" in kinds else {}
    )


def _error(source: torch.Tensor, values: torch.Tensor, kind: str) -> float:
    """0 for equal bits, for Q8_0 the largest error as a part of what a block may be off by, else infinity."""
    if kind == "q8_0":
        return float(((values - source.float()).abs() / block_error(source)).max())
    kinds = {"f32": torch.float32, "f16": torch.float16, "bf16": torch.bfloat16}
    return 0.0 if torch.equal(source.to(kinds[kind]).float(), values) else float("inf")


def _field(reader: Any, name: str) -> Any:
    field = reader.get_field(name)
    return None if field is None else field.contents()


def _compare_vocabulary(plan: Plan, reader: Any, file: Path) -> int:
    """Tokens, types and merges by the tokenizer's own file; returns the number of tokens."""
    document = read_json(plan.checkpoint.folder / "tokenizer.json")
    tokens, types = _field(reader, "tokenizer.ggml.tokens"), _field(reader, "tokenizer.ggml.token_type")
    if len(tokens) != plan.checkpoint.height or len(types) != len(tokens):
        raise AdaptError(f"'{file}' has {len(tokens)} tokens, but {plan.checkpoint.height} rows in its embedding")
    ids = dict(document["model"]["vocab"]) | {token["content"]: token["id"] for token in document["added_tokens"]}
    for token, index in ids.items():
        if tokens[index] != token:
            raise AdaptError(f"'{file}' calls the token {index} '{tokens[index]}', tokenizer.json '{token}'")
    merges = [merge if isinstance(merge, str) else " ".join(merge) for merge in document["model"]["merges"]]
    if plan.vocabulary.merges and _field(reader, "tokenizer.ggml.merges") != merges:
        raise AdaptError(f"'{file}' has other merges than tokenizer.json")
    written, scores = plan.vocabulary, _field(reader, "tokenizer.ggml.scores") or []
    if types != written.types or not torch.equal(torch.tensor(scores), torch.tensor(written.scores)):
        raise AdaptError(f"'{file}' has other types or scores of tokens than were written")
    return len(tokens)


def _cut_texts(plan: Plan, reader: Any, texts: Iterable[str], file: Path) -> int:
    """Cut texts by what the file says and by the checkpoint's tokenizer; returns how many were cut."""
    cut = _cutter(plan, reader)
    if cut is None:
        return 0
    own = load_tokenizer(ModelLocation(str(plan.checkpoint.folder)))
    normal = own.backend_tokenizer.normalizer if plan.vocabulary.merges else None  # SentencePiece has its own
    count = 0
    for text in texts:
        if any(token in text for token in own.get_added_vocab()):
            continue  # these are cut out before the rules apply
        text = normal.normalize_str(text) if normal is not None else text
        if cut(text) != own(text, add_special_tokens=False, verbose=False)["input_ids"]:
            raise AdaptError(f"'{file}' cuts a text differently than the tokenizer: {text[:60]!r}")
        count += 1
    return count


def _cutter(plan: Plan, reader: Any) -> Callable[[str], list[int]] | None:
    """Text to ids by what the file holds; None where its pre-tokenizer is not known here by its rules."""
    tokens = _field(reader, "tokenizer.ggml.tokens")
    if plan.vocabulary.scores:
        scores, types = _field(reader, "tokenizer.ggml.scores"), _field(reader, "tokenizer.ggml.token_type")
        made = rebuilt(tokens, scores, types, _field(reader, "tokenizer.ggml.add_space_prefix"))
        return lambda text: made.encode(text)
    if plan.vocabulary.pre not in FAMILIES:
        return None
    core = rebuilt_tokenizer(tokens, _field(reader, "tokenizer.ggml.merges"), plan.vocabulary.pre)
    return lambda text: core.encode(text).ids


def rebuilt_tokenizer(tokens: list[str], merges: list[str], pre: str) -> Any:
    """A byte-level tokenizer from what a GGUF file holds: tokens, merges, and the rules that a name stands for."""
    from tokenizers import Regex, Tokenizer, models, pre_tokenizers

    pairs = [tuple(merge.split(" ", 1)) for merge in merges]
    vocabulary: Mapping[str, int] = {token: index for index, token in enumerate(tokens)}
    family = FAMILIES[pre]
    made = Tokenizer(models.BPE(vocab=vocabulary, merges=pairs, ignore_merges=family.ignore_merges))
    steps: list[Any] = []
    for kind, value in family.rules:
        if kind == "split":
            steps.append(pre_tokenizers.Split(Regex(value), behavior="isolated"))
        elif kind == "digits":
            steps.append(pre_tokenizers.Digits(individual_digits=value))
        else:
            steps.append(pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=value))
    made.pre_tokenizer = pre_tokenizers.Sequence(steps)
    return made
