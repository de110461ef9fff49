"""Training speed: adapt's LoRA stage against plain TRL with peft, and against a bare loop as the floor.

    python benchmarks/train_step.py [--rounds 3] [--tokens 120000]

All three train the same Llama (random weights) with the same LoRA on the same number of tokens in rows of the same
length, in float32 with products in bf16. Each runs in a process of its own, in turn, so that a slow minute of the
machine meets all of them. The figures are medians over the rounds; only their ratios mean something. The bare loop has
no packing, no evaluation, no checks, no checkpoints: what is left is the model's own work.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

ROWS, LENGTH = 8, 256
SHAPE = {"hidden_size": 192, "layers": 4, "heads": 6, "key_value_heads": 6, "intermediate_size": 512, "context": LENGTH}
RANK = 16


def make_model(folder: Path) -> None:
    """A model and a corpus for all three."""
    import adapt
    from adapt.demo import statements

    corpus = folder / "corpus.txt"
    texts = (row["text"].replace("\n", " ") for row in statements(["en"], count=20_000))
    corpus.write_text("\n".join(texts), encoding="utf-8")
    recipe = {
        "name": "bench",
        "runs": str(folder / "runs"),
        "data": {"text": {"files": str(corpus)}},
        "stages": {
            "model": {
                "kind": "create_model",
                "tokenizer": {"corpus": {"text": 1.0}, "size": 2000},
                "architecture": SHAPE,
            }
        },
    }
    path = folder / "model.yaml"
    path.write_text(json.dumps(recipe), encoding="utf-8")
    adapt.run(path)


def adapt_speed(folder: Path, tokens: int) -> float:
    """Tokens per second of adapt's train stage, evaluation and checkpoints left at one each."""
    import adapt

    recipe = {
        "name": "bench-train",
        "runs": str(folder / "runs"),
        "models": {"base": f"{folder / 'model.yaml'}#model"},
        "data": {"text": {"files": str(folder / "corpus.txt")}},
        "stages": {
            "train": {
                "kind": "train",
                "model": "base",
                "mixture": {"text": 1.0},
                "method": {"kind": "lora", "r": RANK},
                "precision": "bf16",
                "tokens": tokens,
                "sequence_length": LENGTH,
                "batch_size": ROWS,
                "evaluations": 1,
                "checkpoints": 1,
            }
        },
    }
    path = folder / "train.yaml"
    path.write_text(json.dumps(recipe), encoding="utf-8")
    finished = adapt.run(path, force=["train"])
    return finished.outcome.stages["train"].manifest["metrics"]["tokens_per_second"]


def _model_folder(folder: Path) -> Path:
    return next((folder / "runs" / "bench" / "model").glob("*/model"))


def trl_speed(folder: Path, tokens: int) -> float:
    """Tokens per second of TRL's SFTTrainer with peft, packing `wrapped` (which lets documents see each other)."""
    from datasets import load_dataset
    from peft import LoraConfig
    from trl import SFTConfig, SFTTrainer

    arguments = SFTConfig(
        output_dir=str(folder / "trl"),
        max_steps=tokens // (ROWS * LENGTH),
        per_device_train_batch_size=ROWS,
        max_length=LENGTH,
        packing=True,
        packing_strategy="wrapped",
        gradient_checkpointing=False,
        bf16=True,
        use_cpu=True,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
    )
    trainer = SFTTrainer(
        str(_model_folder(folder)),
        args=arguments,
        train_dataset=load_dataset("text", data_files=str(folder / "corpus.txt"), split="train"),
        peft_config=LoraConfig(r=RANK, target_modules="all-linear", task_type="CAUSAL_LM"),
    )
    result = trainer.train()
    return arguments.max_steps * ROWS * LENGTH / result.metrics["train_runtime"]


def floor_speed(folder: Path, tokens: int) -> float:
    """Tokens per second of forward, backward and AdamW on ready batches, and nothing else."""
    import time

    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(_model_folder(folder), dtype=torch.float32)
    model = get_peft_model(model, LoraConfig(r=RANK, target_modules="all-linear", task_type="CAUSAL_LM")).train()
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], fused=True)
    steps = tokens // (ROWS * LENGTH)
    ids = torch.randint(5, model.config.vocab_size, (steps, ROWS, LENGTH))
    begin = time.perf_counter()
    for batch in ids:
        with torch.autocast("cpu", torch.bfloat16):
            loss = model(input_ids=batch, labels=batch, use_cache=False).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    return steps * ROWS * LENGTH / (time.perf_counter() - begin)


RUNNERS = {"bare loop (floor)": floor_speed, "adapt": adapt_speed, "TRL + peft": trl_speed}


def main() -> None:
    """Run the rounds and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--tokens", type=int, default=120_000)
    parser.add_argument("--only", choices=RUNNERS, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.only:
        print(json.dumps(RUNNERS[options.only](options.folder, options.tokens)))
        return
    with tempfile.TemporaryDirectory() as name:
        make_model(Path(name))
        speeds: dict[str, list[float]] = {runner: [] for runner in RUNNERS}
        for _ in range(options.rounds):
            for runner, values in speeds.items():
                command = [
                    sys.executable,
                    __file__,
                    "--only",
                    runner,
                    "--folder",
                    name,
                    "--tokens",
                    str(options.tokens),
                ]
                output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
                values.append(float(output.strip().splitlines()[-1]))
    floor = statistics.median(speeds["bare loop (floor)"])
    print("| | tokens/s (median) | share of the floor |\n|---|---|---|")
    for runner, values in speeds.items():
        print(f"| {runner} | {statistics.median(values):,.0f} | {statistics.median(values) / floor:.2f} |")


if __name__ == "__main__":
    main()
