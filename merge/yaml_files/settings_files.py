"""The files beside the weights: the base's, or those of the first model of the file; never those of a random one.

The configuration is that of the base with the layers that were taken. A base without a chat template takes it, with
stop tokens and generation settings, from the first model that has one.
"""

from __future__ import annotations

import importlib.util
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from merge.checkpoint import Checkpoint
from merge.policy import Beside, chat_template
from merge.vocabulary import Vocabulary
from merge.yaml_files.document import Entry
from merge.yaml_files.layers import COUNT_KEYS
from merge.yaml_files.schema import MergeFile

RECIPE = "mergekit_config.yml"
"""The name under which a merged folder keeps the file that it comes from; mergekit's own."""
_SHORT = 256


def beside(
    file: MergeFile,
    anchor: Checkpoint,
    tokenizer: str,
    models: Mapping[str, Checkpoint],
    vocabularies: Mapping[str, Vocabulary],
    tokens: Collection[str | None],
) -> tuple[Beside, list[str]]:
    """What the files beside the weights are made from, and what is to be said about it.

    Raises YamlError for a chat template that there is not.
    """
    template = _given_template(file.chat_template, models)
    chat, warnings = _chat_model(tokenizer, models, vocabularies, tokens)
    config = config_of_slices(file, anchor, models) if file.cut else {}
    return Beside(tokenizer, chat, template, config, {RECIPE: file.text}), [] if template else warnings


def _chat_model(
    tokenizer: str,
    models: Mapping[str, Checkpoint],
    vocabularies: Mapping[str, Vocabulary],
    tokens: Collection[str | None],
) -> tuple[str, list[str]]:
    """The model whose template, stop tokens and generation settings the output has."""
    own = models[tokenizer]
    if chat_template(own.folder):
        return tokenizer, []
    known = set(tokens)
    for name, model in models.items():
        if chat_template(model.folder) and set(vocabularies[name].added) <= known:
            return name, [
                f"'{tokenizer}' has no chat template: it, the stop tokens and the generation settings are those of "
                f"'{name}'"
            ]
    return tokenizer, []


def _given_template(entry: Entry | None, models: Mapping[str, Checkpoint]) -> str | None:
    """The text of the file's `chat_template`: `auto` is the most frequent one, a name one of mergekit's."""
    if entry is None:
        return None
    text = entry.text("chat_template")
    if text == "auto":
        found = Counter(filter(None, (_text_of(chat_template(model.folder)) for model in models.values())))
        return found.most_common(1)[0][0] if found else None
    if "{" in text:
        return text
    return _named_template(text, entry)


def _text_of(template: Any) -> str | None:
    if isinstance(template, list):
        return next((entry["template"] for entry in template if entry.get("name") == "default"), None)
    return template


def _named_template(name: str, entry: Entry) -> str:
    home = importlib.util.find_spec("mergekit")
    if home is None or not home.submodule_search_locations:
        raise entry.fail(f"the chat template '{name}' is one of mergekit's, which is not installed; write its text")
    folder = Path(home.submodule_search_locations[0]) / "_data" / "chat_templates"
    known = sorted(path.stem for path in folder.glob("*.jinja"))
    if name not in known:
        raise entry.fail(
            f"chat_template is '{name[:_SHORT]}'; it is auto, the text of a template, or {', '.join(known)}"
        )
    return (folder / f"{name}.jinja").read_text(encoding="utf-8")


def config_of_slices(file: MergeFile, anchor: Checkpoint, models: Mapping[str, Checkpoint]) -> dict[str, Any]:
    """What changes in config.json: the number of layers, and lists with an entry for each layer."""
    spans = [(models[part.sources[0].model.place], part.sources[0].layers) for part in file.slices]
    parts = [(model.config, span) for model, span in spans]
    nested = anchor.config.get("text_config")
    if isinstance(nested, dict) and _count_key(nested):
        inner = [(config.get("text_config", config), span) for config, span in parts]
        return {"text_config": nested | _changes(nested, inner)}
    return _changes(anchor.config, parts)


def _count_key(config: Mapping[str, Any]) -> str | None:
    return next((key for key in COUNT_KEYS if isinstance(config.get(key), int)), None)


def _changes(config: Mapping[str, Any], parts: Sequence[tuple[Mapping[str, Any], tuple[int, int]]]) -> dict[str, Any]:
    key = _count_key(config)
    if key is None:
        return {}
    found: dict[str, Any] = {key: sum(last - first for _, (first, last) in parts)}
    for name, value in config.items():
        if isinstance(value, list) and len(value) == config[key] and _is_by_layer(name):
            found[name] = [item for source, (first, last) in parts for item in source.get(name, value)[first:last]]
    return found


def _is_by_layer(name: str) -> bool:
    return name != "architectures" and not name.endswith(("_id", "_ids"))
