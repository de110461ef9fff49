"""Many adapters in one batch: throughput beside peft's batches of mixed adapters, and memory with many registered.

    python benchmarks/adapter_pool.py [--distinct 1 8 64] [--rank 16] [--width 512] [--prompt 16] [--new 48]
    python benchmarks/adapter_pool.py --registered 1000     # memory of a process of its own

A Llama with random weights, all seven projections adapted; 64 rows, which name so many distinct adapters in turn.
Seconds of the process, medians of interleaved repeats: a pass over the prompts, and generation of `--new` tokens with
a cache. Reading the adapters falls into the round that is not counted, for both.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
import warnings
from pathlib import Path
from typing import Any

import torch
from half_step import resident
from mixture_step import Timed, llama, medians

from adapt.mixture.many import ManyAdapters

TARGETS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


def prepare(options: argparse.Namespace, folder: Path) -> None:
    """The base, and one adapter whose B is not zero."""
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    llama(options).save_pretrained(folder / "base")
    model = AutoModelForCausalLM.from_pretrained(folder / "base")
    model = get_peft_model(model, LoraConfig(r=options.rank, target_modules=TARGETS))
    for name, parameter in model.named_parameters():
        if "lora_" in name:
            torch.nn.init.normal_(parameter, std=0.02)
    model.save_pretrained(folder / "0")


def load(folder: Path) -> Any:
    """The base."""
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(folder / "base").eval()


def throughput(options: argparse.Namespace, folder: Path) -> None:
    """The table of times."""
    from peft import PeftModel

    many = ManyAdapters(load(folder), options.budget << 20)
    peft = PeftModel.from_pretrained(load(folder), folder / "0", adapter_name="0").eval()
    for index in range(max(options.distinct)):
        many.register(str(index), folder / "0")
        if index:
            peft.load_adapter(folder / "0", str(index))
    ids = torch.arange(options.rows * options.prompt).view(options.rows, -1) % 500 + 1
    length = {"max_new_tokens": options.new, "do_sample": False}
    print("| distinct | | base | ours | peft | peft / ours |\n" + "|---" * 6 + "|")
    for distinct in options.distinct:
        names = [str(row % distinct) for row in range(options.rows)]

        def ours(what: Any, names: list[str] = names) -> None:
            with many.using(names):
                what(many.model)

        with torch.inference_mode(), many.using(names):
            here, there = many.model(input_ids=ids).logits, peft(input_ids=ids, adapter_names=names).logits
            torch.testing.assert_close(here, there, rtol=1e-3, atol=1e-3)
        whole: Timed = {
            "base": lambda: many.model(input_ids=ids, use_cache=False),
            "ours": lambda f=ours: f(lambda model: model(input_ids=ids, use_cache=False)),
            "peft": lambda n=names: peft(input_ids=ids, use_cache=False, adapter_names=n),
        }
        written: Timed = {
            "base": lambda: many.model.generate(input_ids=ids, **length),
            "ours": lambda f=ours: f(lambda model: model.generate(input_ids=ids, **length)),
            "peft": lambda n=names: peft.generate(input_ids=ids, adapter_names=n, **length),
        }
        for what, timed in {"pass": whole, "generation": written}.items():
            with torch.inference_mode():
                found = medians(timed, options.rounds)
            numbers = " | ".join(f"{value:.3f} s" for value in found.values())
            print(f"| {distinct} | {what} | {numbers} | {found['peft'] / found['ours']:.1f} |", flush=True)


def memory(options: argparse.Namespace, folder: Path) -> None:
    """Register many, use each once in batches of 64 rows; print megabytes of the process along the way."""
    many = ManyAdapters(load(folder), options.budget << 20)
    marks = {"base": resident("VmRSS")}
    for index in range(options.registered):
        many.register(str(index), folder / str(index))
    marks["registered"] = resident("VmRSS")
    ids, names = torch.ones(options.rows, 4, dtype=torch.long), many.names
    for begin in range(0, len(names), options.rows):
        own = names[begin : begin + options.rows]
        with many.using(own), torch.inference_mode():
            many.model(input_ids=ids[: len(own)], use_cache=False)
    marks |= {"all used": resident("VmRSS"), "peak": resident("VmHWM")}
    one = (folder / "0" / "adapter_model.safetensors").stat().st_size
    print(json.dumps({"one adapter": one} | marks | {"loads": many.pool.loads}))


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--distinct", type=int, nargs="+", default=[1, 8, 64])
    parser.add_argument("--registered", type=int)
    parser.add_argument("--budget", type=int, default=256, help="MB of the pool")
    parser.add_argument("--rows", type=int, default=64)
    parser.add_argument("--rank", type=int, default=16)
    parser.add_argument("--width", type=int, default=512)
    parser.add_argument("--layers", type=int, default=2)
    parser.add_argument("--prompt", type=int, default=16)
    parser.add_argument("--new", type=int, default=48)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], default="float32")
    parser.add_argument("--child", type=Path)
    options = parser.parse_args()
    warnings.filterwarnings("ignore")
    torch.set_num_threads(1)
    if options.child:
        memory(options, options.child)
        return
    with tempfile.TemporaryDirectory() as place:
        prepare(options, Path(place))
        if not options.registered:
            throughput(options, Path(place))
            return
        for index in range(1, options.registered):
            shutil.copytree(Path(place) / "0", Path(place) / str(index))
        command = [sys.executable, __file__, *sys.argv[1:], "--child", place]
        told = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()[-1])
        for name, value in told.items():
            print(f"| {name} | {value if name == 'loads' else f'{value / 1e6:.1f} MB'} |")


if __name__ == "__main__":
    main()
