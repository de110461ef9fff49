"""What saving a trained mixture takes in main memory: its folder, its plain model, and the proof that both load.

    python benchmarks/mixture_saving.py [--width 1024] [--layers 8]

A Llama with random weights, stored in bf16 and in float32 in the run; three LoRA of rank 16 behind gates, and one
domain adapter of 64 units. Each in a process of its own: megabytes before saving, and the peak above that (Linux).
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
from half_step import resident

from adapt.checkpoints import ModelLocation, load_tokenizer
from adapt.methods.base import Trained
from adapt.methods.domain_adapter import DomainAdapter
from adapt.methods.mixture_of_lora import MixtureOfLora
from adapt.training.precision import Precision

METHODS: dict[str, Any] = {
    "three LoRA": MixtureOfLora(new=3, train="joint"),
    "domain adapter": DomainAdapter(keep=0),
}
TOKENIZER = Path(__file__).parents[1] / "examples" / "models" / "tiny-en"


def prepare(options: argparse.Namespace, folder: Path) -> None:
    """The base."""
    from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

    width = options.width
    config = LlamaConfig(
        hidden_size=width,
        intermediate_size=width * 11 // 4,
        num_hidden_layers=options.layers,
        num_attention_heads=width // 64,
        vocab_size=20_000,
    )
    LlamaForCausalLM(config).bfloat16().save_pretrained(folder)
    AutoTokenizer.from_pretrained(TOKENIZER).save_pretrained(folder)


def save(name: str, base: str) -> None:
    """Build the method's model, save it, print the megabytes."""
    method, location = METHODS[name], ModelLocation(base)
    precision = Precision(torch.device("cpu"), bf16=False)
    model, tokenizer = method.build(location, precision, lambda: iter(())), load_tokenizer(location)
    rows = method.rows(model, "none", location, tokenizer)
    trained = Trained(model, location, tokenizer, rows, precision, torch.randint(6, 300, (2, 32)))
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
    before = resident("VmRSS")
    with tempfile.TemporaryDirectory() as place:
        method.save(trained, Path(place))
        print(json.dumps({"before": before, "peak": resident("VmHWM") - before}))


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--width", type=int, default=1024)
    parser.add_argument("--layers", type=int, default=8)
    parser.add_argument("--child", nargs=2)
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.child:
        save(*options.child)
        return
    print("| | before | peak of saving above that |\n|---|---|---|")
    with tempfile.TemporaryDirectory() as place:
        prepare(options, Path(place))
        for name in METHODS:
            command = [sys.executable, __file__, "--child", name, place]
            done = subprocess.run(command, check=True, capture_output=True, text=True)
            told = json.loads(done.stdout.splitlines()[-1])
            print(f"| {name} | {told['before'] / 1e6:,.0f} MB | {told['peak'] / 1e6:,.0f} MB |", flush=True)


if __name__ == "__main__":
    main()
