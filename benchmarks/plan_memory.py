"""The planner's estimate of a training run's memory against what the run takes: `python benchmarks/plan_memory.py`.

A random Llama is made on the spot, and each method trains it in a process of its own through the train stage, as a
recipe would; the numbers are those of the stage's manifest (`metrics.plan`): `adapt.training.meter` measures.
Names of runs restrict the table to these.
"""

from __future__ import annotations

import multiprocessing
import sys
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

CHECKPOINTED = {"gradient_checkpointing": True}
SHORT = {"sequence_length": 64, "batch_size": 2, "evaluation_bytes": 200}
"""For products in bf16, which processors without units for them take fifty times as long for."""
CASES: dict[str, dict[str, Any]] = {
    "full": {"method": "full"},
    "full, checkpointing": {"method": "full", **CHECKPOINTED},
    "full, 2 accumulated": {"method": "full", "batch_size": 1, "gradient_accumulation": 2},
    "full, bf16": {"method": "full", "precision": "bf16", **SHORT},
    "full, adamw_8bit": {"method": "full", "optimizer": "adamw_8bit"},
    "full, adafactor": {"method": "full", "optimizer": "adafactor"},
    "full, galore": {"method": "full", "optimizer": "galore_adamw"},
    "half": {"method": "half"},
    "half, frozen in nf4": {"method": {"kind": "half", "frozen": "nf4"}},
    "lisa": {"method": {"kind": "lisa", "every": 1}},
    "norms": {"method": "norms"},
    "lora": {"method": "lora"},
    "lora, bf16": {"method": "lora", "precision": "bf16", **SHORT},
    "lora, checkpointing": {"method": "lora", **CHECKPOINTED},
    "lora, embeddings whole": {"method": {"kind": "lora", "train_embeddings": "whole"}},
    "qlora": {"method": "qlora"},
    "qlora, checkpointing": {"method": "qlora", **CHECKPOINTED},
    "vera": {"method": "vera"},
    "lora, chunked logits": {"method": "lora", "sequence_length": 1024, "batch_size": 2, **CHECKPOINTED},
    "full, chunked logits": {"method": "full", "sequence_length": 1024, "batch_size": 2, **CHECKPOINTED},
}
COMMON = {"kind": "train", "model": "base", "mixture": {"text": 1}, "sequence_length": 256, "batch_size": 2}
COMMON |= {"evaluations": 1, "evaluation_bytes": 500, "checkpoints": 1, "report_to": [], "precision": "fp32"}
STEPS = 2


def make_model(folder: Path, width: int = 512, layers: int = 10) -> None:
    """A Llama of 38 million parameters, 20,000 of vocabulary, with a tokenizer of the demo's text."""
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=1000, special_tokens=["<end>"], initial_alphabet=pre_tokenizers.ByteLevel.alphabet()
    )
    tokenizer.train_from_iterator(_lines(), trainer)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=20_000,
        hidden_size=width,
        intermediate_size=8 * width // 3 // 64 * 64,
        num_hidden_layers=layers,
        num_attention_heads=width // 64,
        num_key_value_heads=4,
        max_position_embeddings=2048,
        tie_word_embeddings=True,
    )
    LlamaForCausalLM(config).to(torch.bfloat16).save_pretrained(folder)
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<end>", pad_token="<end>").save_pretrained(folder)


def _lines() -> list[str]:
    return [f"Line {number} has the square {number**2} and the cube {number**3}." for number in range(20_000)]


def context_in(made: Path, folder: Path) -> Any:
    """What a stage needs that writes to `made` and reads the model and the text in `folder`."""
    import io

    from rich.console import Console

    from adapt.checkpoints import ModelLocation
    from adapt.data.sources import Files
    from adapt.display import Display
    from adapt.log import Log
    from adapt.stages.base import StageContext

    return StageContext(
        recipe="plan",
        stage="stage",
        seed=1,
        folder=made,
        cache=folder / "cache",
        models=dict.fromkeys(("base", "other"), ModelLocation(str(folder / "model"))),
        sources={"text": Files(files=(str(folder / "text.txt"),))},
        display=Display(Console(file=io.StringIO())),
        log=Log(made / "log.jsonl"),
    )


def measure(folder: Path, settings: dict[str, Any]) -> dict[str, Any]:
    """One run of the stage in this process."""
    from adapt.stages.train import Train

    settings = COMMON | settings
    rows = settings["batch_size"] * settings.get("gradient_accumulation", 1)
    stage = Train(tokens=STEPS * rows * settings["sequence_length"] - 8, **settings)
    with tempfile.TemporaryDirectory() as made:
        return stage.run(context_in(Path(made), folder))["plan"]


def main() -> None:
    """Every case, or those whose names are given."""
    compare(CASES, measure)


def compare(cases: Mapping[str, Any], measured: Callable[[Path, Any], dict[str, Any]], *shape: int) -> None:
    """A table of estimates beside measurements, each case in a fork of this process, which has the libraries already.

    `shape` are the width and the layers of the model where it is another one.
    """
    import importlib

    for module in ("adapt.stages.train", "adapt.training.run", "adapt.planning.during", "trl", "peft", "bitsandbytes"):
        importlib.import_module(module)
    print("| run | estimate | measured | error | pages |\n|---|---|---|---|---|", flush=True)
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        forked(make_model, folder / "model", *shape)
        (folder / "text.txt").write_text("\n\n".join(_lines()), encoding="utf-8")
        for case in sys.argv[1:] or cases:
            print(_line(case, forked(measured, folder, cases[case])), flush=True)


def forked(work: Callable[..., Any], *arguments: Any) -> Any:
    """What work returns in a process of its own, or the line with which it failed."""
    context = multiprocessing.get_context("fork")
    results = context.SimpleQueue()

    def run() -> None:
        try:
            results.put(work(*arguments))
        except Exception as error:
            results.put(f"failed: {error}".splitlines()[0])

    process = context.Process(target=run)
    process.start()
    found = results.get()
    process.join()
    return found


def _line(case: str, found: dict[str, Any] | str) -> str:
    if isinstance(found, str) or found["estimate"] is None:
        return f"| {case} | {found if isinstance(found, str) else found['reason']} | | | |"
    numbers = f"{found['estimate'] / 1e6:,.0f} MB | {found['measured'] / 1e6:,.0f} MB | {found['error']:+.1%}"
    return f"| {case} | {numbers} | {found['resident'] / 1e6:,.0f} MB |"


if __name__ == "__main__":
    main()
