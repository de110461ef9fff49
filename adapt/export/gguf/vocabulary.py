"""A tokenizer as GGUF holds it: a token for every row of the embedding, with types, merges or scores."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from adapt.checkpoints import ModelLocation, load_tokenizer, read_json
from adapt.errors import AdaptError
from adapt.export.gguf import pre_tokenizers
from adapt.export.gguf.sentencepiece import scores_of
from adapt.export.gguf.templates import plain_template
from adapt.export.gguf.types import BYTE, CONTROL, NORMAL, UNKNOWN, UNUSED, USER_DEFINED

if TYPE_CHECKING:
    from gguf import GGUFWriter

_SPECIAL = ("bos", "eos", "unk", "pad")


@dataclass(frozen=True)
class Vocabulary:
    """Tokens in the order of the rows; byte-level BPE has `merges` and `pre`, SentencePiece `scores`."""

    model: str
    tokens: list[str]
    types: list[int]
    merges: list[str] = field(default_factory=list)
    scores: list[float] = field(default_factory=list)
    pre: str = "default"
    special: Mapping[str, int] = field(default_factory=dict)
    adds: Mapping[str, bool] = field(default_factory=dict)
    template: str | None = None

    def describe(self, writer: GGUFWriter) -> None:
        """Write the tokenizer's metadata."""
        writer.add_tokenizer_model(self.model)
        writer.add_tokenizer_pre(self.pre)
        writer.add_token_list(self.tokens)
        writer.add_token_types(self.types)
        if self.merges:
            writer.add_token_merges(self.merges)
        if self.scores:
            writer.add_token_scores(self.scores)
        for name, index in self.special.items():
            getattr(writer, f"add_{name}_token_id")(index)
        writer.add_add_bos_token(self.adds["bos"])
        writer.add_add_eos_token(self.adds["eos"])
        if self.model == "llama":
            writer.add_add_space_prefix(self.adds["space"])
        if self.template:
            writer.add_chat_template(self.template)


def read(folder: Path, height: int, asked: str | None = None) -> Vocabulary:
    """The vocabulary of a checkpoint whose embedding has `height` rows; `asked` is a name of a pre-tokenizer.

    Raises AdaptError for tokenizers that are neither byte-level BPE nor SentencePiece BPE, and where a token has no
    row.
    """
    from adapt.vocabulary.byte_level import is_byte_level

    document, tokenizer = read_json(folder / "tokenizer.json"), load_tokenizer(ModelLocation(str(folder)))
    if document["model"].get("type") != "BPE":
        raise AdaptError(f"GGUF: the tokenizer is {document['model'].get('type')}; written is BPE")
    names = _by_row(document, height, folder)
    common = {"special": _special_ids(tokenizer, folder), "adds": _added(tokenizer), "tokens": list(names)}
    common["template"] = plain_template(tokenizer)
    merges = [merge if isinstance(merge, str) else " ".join(merge) for merge in document["model"]["merges"]]
    types = _types(document, names)
    if is_byte_level(document):
        pre = pre_tokenizers.name_of(document, asked)
        return Vocabulary("gpt2", types=types, merges=merges, pre=pre, **common)
    return Vocabulary("llama", types=types, scores=scores_of(folder, document, names, types), **common)


def _by_row(document: Mapping[str, Any], height: int, folder: Path) -> list[str]:
    """A token for each row; rows that no token has are named `[PAD<row>]`."""
    ids = {index: token for token, index in document["model"]["vocab"].items()}
    ids |= {token["id"]: token["content"] for token in document["added_tokens"]}
    if max(ids) >= height:
        raise AdaptError(
            f"'{folder}' has {height} rows in its embedding, but the token '{ids[max(ids)]}' has the id {max(ids)}"
        )
    return [ids.get(row, f"[PAD{row}]") for row in range(height)]


def _types(document: Mapping[str, Any], names: list[str]) -> list[int]:
    model = document["model"]
    known = set(model["vocab"].values())
    types = [NORMAL if row in known else UNUSED for row in range(len(names))]
    if model.get("byte_fallback"):
        for row, name in enumerate(names):
            if len(name) == 6 and name.startswith("<0x") and name.endswith(">"):
                types[row] = BYTE
    for token in document["added_tokens"]:
        types[token["id"]] = CONTROL if token["special"] else USER_DEFINED
    if model.get("unk_token") in model["vocab"]:
        types[model["vocab"][model["unk_token"]]] = UNKNOWN
    return types


def _special_ids(tokenizer: Any, folder: Path) -> dict[str, int]:
    """Ids of the special tokens; `eot` is the other token that ends an answer, where there is one."""
    found = {name: getattr(tokenizer, f"{name}_token_id") for name in _SPECIAL}
    path = folder / "generation_config.json"
    stops = read_json(path).get("eos_token_id") if path.exists() else None
    others = [index for index in (stops if isinstance(stops, list) else [stops]) if index != found["eos"]]
    found["eot"] = others[0] if others else None
    return {name: int(index) for name, index in found.items() if index is not None}


def _added(tokenizer: Any) -> dict[str, bool]:
    """Which tokens the tokenizer puts around a text, and whether a space before it."""
    ids, bare = tokenizer("a")["input_ids"], tokenizer("a", add_special_tokens=False)["input_ids"]
    more = len(ids) > len(bare)
    return {
        "bos": more and ids[0] == tokenizer.bos_token_id,
        "eos": more and ids[-1] == tokenizer.eos_token_id,
        "space": tokenizer.convert_ids_to_tokens(bare[0]).startswith("▁"),
    }
