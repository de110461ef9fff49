"""The files beside the weights: whose configuration, tokenizer, chat template and generation settings the output has.

Shape, rope and tokenizer are the anchor's. Chat template, stop tokens and generation settings are those of the model
that the chat tokens come from; ids in them are looked up by token.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from merge.checkpoint import Checkpoint, read_json
from merge.errors import MergeError
from merge.vocabulary import RowPlan, Vocabulary

_COPIED = ("tokenizer.json", "tokenizer.model", "vocab.json", "merges.txt", "vocab.txt", "tekken.json")
_SHAPE_KEYS = (
    "model_type",
    "hidden_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "intermediate_size",
    "head_dim",
)
_ROPE_KEYS = ("rope_theta", "rope_scaling", "rope_parameters")
_SPECIAL_KEYS = ("eos_token", "pad_token", "additional_special_tokens", "extra_special_tokens")


@dataclass(frozen=True)
class Beside:
    """What the files beside the weights are made from, where that is not decided by the roles.

    `tokenizer` and `chat` are names of models, `template` is the text of a chat template, `config` are changed entries
    of config.json, `files` are further files by name, with their text.
    """

    tokenizer: str | None = None
    chat: str | None = None
    template: str | None = None
    config: Mapping[str, Any] = field(default_factory=dict)
    files: Mapping[str, str] = field(default_factory=dict)


def check_same_architecture(anchor: Checkpoint, other: Checkpoint, ignoring: Collection[str] = ()) -> None:
    """Raise MergeError, naming the key, where two models do not have the same shape."""
    for key in _SHAPE_KEYS:
        if key not in ignoring and anchor.config.get(key) != other.config.get(key):
            raise MergeError(
                f"'{anchor.name}' and '{other.name}' are not of one architecture: {key} is "
                f"{anchor.config.get(key)!r} and {other.config.get(key)!r}"
            )


def rope_warnings(anchor: Checkpoint, other: Checkpoint) -> list[str]:
    """What is said where two models place positions differently; the anchor's settings are kept."""
    return [
        f"{key} of '{other.name}' is {other.config.get(key)!r}; the output keeps {anchor.config.get(key)!r} of "
        f"'{anchor.name}'"
        for key in _ROPE_KEYS
        if anchor.config.get(key) != other.config.get(key)
    ]


def chat_template(folder: Path) -> Any:
    """A folder's chat template (text, or a list of named ones), or None."""
    file = folder / "chat_template.jinja"
    if file.exists():
        return file.read_text(encoding="utf-8")
    config = folder / "tokenizer_config.json"
    return read_json(config).get("chat_template") if config.exists() else None


def translated(index: Any, chat: Vocabulary, plan: RowPlan, name: str) -> Any:
    """A token id, or a list of them, of the chat model as an id of the output; None and negative ids mean no token."""
    if isinstance(index, list):
        return [translated(item, chat, plan, name) for item in index]
    if index is None or index < 0:
        return index
    token = next((token for token, own in chat.ids.items() if own == index), None)
    if token is None or token not in plan.tokens:
        raise MergeError(f"'{name}' names the token id {index} in its settings, but no token of the output has that id")
    return plan.tokens.index(token)


def write_config(
    folder: Path, anchor: Checkpoint, chat: tuple[Checkpoint, Vocabulary], plan: RowPlan, changes: Mapping[str, Any]
) -> None:
    """`config.json` and `generation_config.json`; `changes` are the tying and the type of the weights."""
    model, vocabulary = chat
    config = dict(anchor.config) | changes
    nested = config.get("text_config")
    if isinstance(nested, dict) and "vocab_size" in nested:
        config["text_config"] = nested | {"vocab_size": plan.height}
    else:
        config["vocab_size"] = plan.height
    for key in ("eos_token_id", "pad_token_id"):
        if model.config.get(key) is not None:
            config[key] = translated(model.config[key], vocabulary, plan, model.name)
    _write_json(folder / "config.json", config)
    source = model.folder / "generation_config.json"
    if source.exists():
        settings = read_json(source)
        ids = {key: value for key, value in settings.items() if key.endswith("_token_id")}
        settings |= {key: translated(value, vocabulary, plan, model.name) for key, value in ids.items()}
        _write_json(folder / "generation_config.json", settings)


def write_tokenizer(
    folder: Path, anchor: Checkpoint, chat: Checkpoint, plan: RowPlan, template: str | None = None
) -> None:
    """The anchor's tokenizer files, with the chat model's special tokens, and its template unless one is given.

    Without tokens to append, `tokenizer.json` is copied byte for byte.
    """
    for name in _COPIED:
        if (anchor.folder / name).exists():
            shutil.copyfile(anchor.folder / name, folder / name)
    if plan.appended:
        _append_tokens(folder / "tokenizer.json", plan)
    settings = _settings(anchor.folder)
    theirs = _settings(chat.folder)
    for key in _SPECIAL_KEYS:
        if theirs.get(key):
            settings[key] = _joined(settings.get(key), theirs[key])
    if "added_tokens_decoder" in settings:
        for entry in plan.appended:
            flags = {key: value for key, value in entry.items() if key != "id"}
            settings["added_tokens_decoder"][str(plan.tokens.index(entry["content"]))] = flags
    template = template or chat_template(chat.folder) or chat_template(anchor.folder)
    settings.pop("chat_template", None)
    if isinstance(template, str):
        (folder / "chat_template.jinja").write_text(template, encoding="utf-8")
    elif template is not None:
        settings["chat_template"] = template
    _write_json(folder / "tokenizer_config.json", settings)


def _settings(folder: Path) -> dict[str, Any]:
    """The tokenizer's settings; older formats keep the special tokens in a file of their own."""
    settings: dict[str, Any] = {}
    for name in ("special_tokens_map.json", "tokenizer_config.json"):
        if (folder / name).exists():
            settings |= read_json(folder / name)
    return settings


def _joined(ours: Any, theirs: Any) -> Any:
    if isinstance(ours, list) and isinstance(theirs, list):
        return ours + [token for token in theirs if token not in ours]
    return theirs


def _append_tokens(path: Path, plan: RowPlan) -> None:
    """Add the chat tokens; those that stood behind the vocabulary are entered in it, so that no id moves."""
    document = read_json(path)
    listed = document.setdefault("added_tokens", [])
    listed += [{**entry, "id": plan.tokens.index(entry["content"])} for entry in plan.appended]
    if not isinstance(document["model"]["vocab"], dict):
        raise MergeError(f"'{path.name}' is not BPE: chat tokens that the output's tokenizer lacks cannot be appended")
    document["model"]["vocab"] |= {entry["content"]: entry["id"] for entry in listed}
    _write_json(path, document)


def _write_json(path: Path, content: Any) -> None:
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
