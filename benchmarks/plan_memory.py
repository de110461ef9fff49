"""The planner's estimate of a training run's memory against what the run takes: `python benchmarks/plan_memory.py`.

A random Llama is made on the spot, and each method trains it in a process of its own through the train stage, as a
recipe would; the numbers are those of the stage's manifest (`metrics.plan`): `adapt.training.meter` measures.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

CHECKPOINTED = {"gradient_checkpointing": True}
CASES: dict[str, dict[str, Any]] = {
    "full": {"method": "full"},
    "full, checkpointing": {"method": "full", **CHECKPOINTED},
    "full, 2 accumulated": {"method": "full", "batch_size": 2, "gradient_accumulation": 2},
    "full, bf16": {"method": "full", "precision": "bf16"},
    "full, adamw_8bit": {"method": "full", "optimizer": "adamw_8bit"},
    "full, adafactor": {"method": "full", "optimizer": "adafactor"},
    "full, galore": {"method": "full", "optimizer": "galore_adamw"},
    "half": {"method": "half"},
    "half, frozen in nf4": {"method": {"kind": "half", "frozen": "nf4"}},
    "lisa": {"method": {"kind": "lisa", "every": 1}},
    "norms": {"method": "norms"},
    "lora": {"method": "lora"},
    "lora, bf16": {"method": "lora", "precision": "bf16"},
    "lora, checkpointing": {"method": "lora", **CHECKPOINTED},
    "lora, embeddings whole": {"method": {"kind": "lora", "train_embeddings": "whole"}},
    "qlora": {"method": "qlora"},
    "qlora, checkpointing": {"method": "qlora", **CHECKPOINTED},
    "vera": {"method": "vera"},
    "lora, chunked logits": {"method": "lora", "sequence_length": 1024, "batch_size": 2, **CHECKPOINTED},
    "full, chunked logits": {"method": "full", "sequence_length": 1024, "batch_size": 2, **CHECKPOINTED},
}
COMMON = {"kind": "train", "model": "base", "mixture": {"text": 1}, "sequence_length": 256, "batch_size": 4}
COMMON |= {"evaluations": 1, "evaluation_bytes": 2000, "checkpoints": 1, "report_to": [], "precision": "fp32"}
STEPS = 3


def make_model(folder: Path) -> None:
    """A Llama of 78 million parameters, 20,000 of vocabulary, with a tokenizer of the demo's text."""
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
        hidden_size=768,
        intermediate_size=2048,
        num_hidden_layers=10,
        num_attention_heads=12,
        num_key_value_heads=4,
        max_position_embeddings=2048,
        tie_word_embeddings=True,
    )
    LlamaForCausalLM(config).to(torch.bfloat16).save_pretrained(folder)
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<end>", pad_token="<end>").save_pretrained(folder)


def _lines() -> list[str]:
    return [f"Line {number} has the square {number**2} and the cube {number**3}." for number in range(20_000)]


def measure(folder: Path, case: str) -> dict[str, Any]:
    """One run of the stage in this process."""
    import io

    from rich.console import Console

    from adapt.checkpoints import ModelLocation
    from adapt.data.sources import Files
    from adapt.display import Display
    from adapt.log import Log
    from adapt.stages.base import StageContext
    from adapt.stages.train import Train

    settings = COMMON | CASES[case]
    rows = settings["batch_size"] * settings.get("gradient_accumulation", 1)
    stage = Train(tokens=STEPS * rows * settings["sequence_length"] - 8, **settings)
    with tempfile.TemporaryDirectory() as made:
        context = StageContext(
            recipe="plan",
            stage="train",
            seed=1,
            folder=Path(made),
            cache=folder / "cache",
            models={"base": ModelLocation(str(folder / "model"))},
            sources={"text": Files(files=(str(folder / "text.txt"),))},
            display=Display(Console(file=io.StringIO())),
            log=Log(Path(made) / "log.jsonl"),
        )
        return stage.run(context)["plan"]


def main() -> None:
    """Every case, or those whose names are given, in child processes."""
    if sys.argv[1:2] == ["--child"]:
        print(json.dumps(measure(Path(sys.argv[2]), sys.argv[3])))
        return
    print("| run | estimate | measured | error | pages |\n|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        make_model(folder / "model")
        (folder / "text.txt").write_text("\n\n".join(_lines()), encoding="utf-8")
        for case in sys.argv[1:] or CASES:
            command = [sys.executable, __file__, "--child", place, case]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if done.returncode:
                print(f"| {case} | failed: {done.stderr.strip().splitlines()[-1]} | | |", flush=True)
                continue
            found = json.loads(done.stdout.strip().splitlines()[-1])
            if found["estimate"] is None:
                print(f"| {case} | {found['reason']} | | |", flush=True)
                continue
            numbers = f"{found['estimate'] / 1e6:,.0f} MB | {found['measured'] / 1e6:,.0f} MB | {found['error']:+.1%}"
            print(f"| {case} | {numbers} | {found['resident'] / 1e6:,.0f} MB |", flush=True)


if __name__ == "__main__":
    main()
