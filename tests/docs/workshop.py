"""A working directory in which the documentation's commands run as they are printed: small things of those names."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import yaml

from tests.conftest import ENGLISH, UKRAINIAN, make_model
from tests.docs.pages import ROOT
from tests.merge.family import make_family, nudge, plain_tokenizer, save

STAND_INS = {
    "base": ("org/model", "owner/base-model", "meta-llama/Llama-3.1-8B", "base", "MODEL"),
    "instruct": ("org/model-instruct", "owner/instruct-model", "meta-llama/Llama-3.1-8B-Instruct", "instruct"),
    "cpt": ("runs/lang/cpt", "runs/x/cpt", "runs/cpt", "cpt"),
    "law": ("org/law",),
    "medicine": ("org/medicine",),
}
"""The names under which the documentation calls its models."""
PLACES = {
    "base": "org/model",
    "instruct": "org/model-instruct",
    "cpt": "runs/lang/cpt",
    "chat": "org/model-instruct",
    "a": "org/law",
    "b": "org/medicine",
    "lora_a": "adapters/law",
    "lora_b": "adapters/tone",
}
"""What stands for `name=...`."""
SMALL_TRAINING = {
    "tokens": 512,
    "sequence_length": 64,
    "batch_size": 2,
    "gradient_accumulation": 1,
    "evaluations": 1,
    "checkpoints": 1,
    "evaluation_bytes": 500,
}


def build(folder: Path) -> Path:
    """Fill a folder with models, texts, questions and recipes; a few megabytes."""
    _models(folder)
    _texts(folder)
    (folder / "examples").symlink_to(ROOT / "examples")
    (folder / "recipes").mkdir()
    for path in (ROOT / "recipes").glob("*.yaml"):
        (folder / "recipes" / path.name).write_text(reduced(path), encoding="utf-8")
    shutil.copytree(ROOT / "docs", folder / "docs")
    for path in (ROOT / "docs" / "examples").glob("*.yaml"):
        (folder / "docs" / "examples" / path.name).write_text(reduced(path), encoding="utf-8")
    models = {name: name for name in ("cpt", "instruct", "base")}
    merge = {"expression": "cpt + 0.8 * (instruct - base)", "models": models}
    (folder / "merge.yaml").write_text(json.dumps(merge), encoding="utf-8")
    return folder


def _models(folder: Path) -> None:
    family = make_family(folder / "family").folders
    for seed, name in enumerate(("law", "medicine"), start=11):
        family[name] = save(folder / "family" / name, nudge(make_model(384), seed), plain_tokenizer())
    for name, places in STAND_INS.items():
        for place in places:
            shutil.copytree(family[name], folder / place)


def make_adapters(folder: Path) -> None:
    """Two LoRA adapters of the base."""
    from peft import LoraConfig, get_peft_model

    for name in ("law", "tone"):
        config = LoraConfig(r=4, target_modules="all-linear", init_lora_weights=False, task_type="CAUSAL_LM")
        model = get_peft_model(make_model(384), config)
        model.peft_config["default"].base_model_name_or_path = "org/model"
        model.save_pretrained(folder / "adapters" / name)


def _texts(folder: Path) -> None:
    texts = {"uk": UKRAINIAN, "en": ENGLISH}
    texts |= {"my_text": UKRAINIAN, "ukr": UKRAINIAN, "text": UKRAINIAN, "english": ENGLISH, "eng": ENGLISH}
    for name, lines in texts.items():
        (folder / f"{name}.txt").write_text("".join(f"{line} {number}\n" for number, line in enumerate(lines)))
    rows = "".join(f'{{"prompt": "Write {number}.", "answer": "{number}"}}\n' for number in range(4))
    documents = "".join(json.dumps({"text": f"{line} {number}"}) + "\n" for number, line in enumerate(ENGLISH))
    for name, text in {
        "asked.jsonl": rows,
        "data/questions.jsonl": rows,
        "data/target/a.txt": (folder / "uk.txt").read_text(),
        "data/general/a.jsonl": documents,
        "data/uk/a.txt": (folder / "uk.txt").read_text().replace("\n", "\n\n"),
        "data/en/a.txt": (folder / "en.txt").read_text().replace("\n", "\n\n"),
    }.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text, encoding="utf-8")


def reduced(path: Path) -> str:
    """A recipe with little text, small vocabularies and a few steps of training in each stage."""
    document = yaml.safe_load(path.read_text(encoding="utf-8"))
    for source in document.get("data", {}).values():
        if "generator" in source:
            source["arguments"]["count"] = min(source["arguments"]["count"], 200)
        source["held_out"] = "10%"
    for stage in document["stages"].values():
        _reduce(stage)
    return yaml.safe_dump(document, allow_unicode=True, sort_keys=False)


def _reduce(stage: dict[str, Any]) -> None:
    if stage["kind"] == "train":
        stage.update(SMALL_TRAINING)
    if stage["kind"] == "expand_vocabulary":
        stage["add"], stage["init"] = 20, "mean_of_pieces"
        stage.pop("pad_to_multiple_of", None)
    for suite in stage.get("suites", {}).values():
        suite.update({"bytes": 1000} if suite["kind"] == "bits_per_byte" else {"limit": 2, "max_new_tokens": 4})
