"""What a step of half fine-tuning costs against full fine-tuning, and where the saved time comes from.

    python benchmarks/half_step.py [--rounds 7] [--width 512] [--layers 8] [--tokens 640] [--vocabulary 2048]

A Llama with random weights in float32, AdamW over what trains, its parts measured in one process in turn: forward,
backward, optimiser (medians of seconds of the process). The matrix products of one backward pass are counted: those
over all tokens are gradients of weights. Memory: bytes of weights, gradients and moments, counted, and the peak of a
process of its own above what it held before it had a model.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

KINDS = ("full", "half", "half nf4")


def make(kind: str, options: argparse.Namespace) -> tuple[Any, Any, Any]:
    """Model, optimiser and a batch."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    from adapt.methods.full import Full
    from adapt.methods.half import Half
    from adapt.methods.selection.nf4 import hold_frozen

    torch.manual_seed(0)
    config = LlamaConfig(
        hidden_size=options.width,
        intermediate_size=options.width * 11 // 4,
        num_hidden_layers=options.layers,
        num_attention_heads=options.width // 64,
        vocab_size=options.vocabulary,
        tie_word_embeddings=True,
    )
    model = LlamaForCausalLM(config)
    model = Full().attach(model) if kind == "full" else Half().attach(model)
    model.get_input_embeddings().weight.requires_grad_(True)
    if kind == "half nf4":
        hold_frozen(model, torch.device("cpu"))
    training = [parameter for parameter in model.parameters() if parameter.requires_grad]
    batch = torch.randint(0, options.vocabulary, (2, options.tokens // 2))
    return model.train(), torch.optim.AdamW(training, lr=1e-4, fused=True), batch


def step(model: Any, optimizer: Any, batch: Any) -> dict[str, float]:
    """One update; seconds of the process in each part."""
    times = [time.process_time()]
    loss = model(input_ids=batch, labels=batch, use_cache=False).loss
    times.append(time.process_time())
    loss.backward()
    times.append(time.process_time())
    optimizer.step()
    optimizer.zero_grad()
    times.append(time.process_time())
    parts = ("forward", "backward", "optimiser")
    return {name: end - start for name, start, end in zip(parts, times, times[1:], strict=False)}


def products(model: Any, batch: Any) -> dict[str, tuple[int, float]]:
    """Matrix products of a backward pass and their arithmetic in GFLOP: gradients of weights, and of their inputs."""
    from torch.profiler import ProfilerActivity, profile

    loss = model(input_ids=batch, labels=batch, use_cache=False).loss
    with profile(activities=[ProfilerActivity.CPU], record_shapes=True) as found:
        loss.backward()
    model.zero_grad()
    counts = {"weights": (0, 0.0), "inputs": (0, 0.0)}
    for event in found.events():
        if event.name == "aten::mm":
            (rows, inner), (_, columns) = event.input_shapes[:2]
            kind = "weights" if inner == batch.numel() else "inputs"
            count, work = counts[kind]
            counts[kind] = count + 1, work + 2e-9 * rows * inner * columns
    return counts


def state_bytes(model: Any, optimizer: Any) -> dict[str, int]:
    """Bytes of weights, gradients and moments."""
    weights = sum(parameter.numel() * parameter.element_size() for parameter in model.parameters())
    training = sum(p.numel() * p.element_size() for p in model.parameters() if p.requires_grad)
    moments = sum(
        value.numel() * value.element_size()
        for state in optimizer.state.values()
        for value in state.values()
        if value.dim()
    )
    return {"weights": weights, "gradients": training, "moments": moments}


def resident(field: str) -> int:
    """A line of /proc/self/status in bytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(field))


def child(kind: str, options: argparse.Namespace) -> None:
    """Three updates in a process of their own; prints the peak above what was there before."""
    import torch
    import transformers.models.llama.modeling_llama  # noqa: F401

    import adapt.methods.selection.nf4  # noqa: F401

    torch.randn(8, 8) @ torch.randn(8, 8)
    before = resident("VmRSS")
    model, optimizer, batch = make(kind, options)
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew: quantising is not training
    for _ in range(3):
        step(model, optimizer, batch)
    print(json.dumps({"peak": resident("VmHWM") - before, **state_bytes(model, optimizer)}))


def main() -> None:
    """Measure all kinds and print two tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--width", type=int, default=512)
    parser.add_argument("--layers", type=int, default=8)
    parser.add_argument("--tokens", type=int, default=640)
    parser.add_argument("--vocabulary", type=int, default=2048)
    parser.add_argument("--child", choices=KINDS)
    options = parser.parse_args()
    if options.child:
        child(options.child, options)
        return
    if options.tokens in (options.width, options.width * 11 // 4, options.vocabulary):
        parser.error(f"--tokens {options.tokens} is a size of the model too; products could not be told apart")
    made = {kind: make(kind, options) for kind in KINDS}
    times: dict[str, list[dict[str, float]]] = {kind: [] for kind in KINDS}
    for index in range(options.rounds + 1):
        for kind in KINDS:
            taken = step(*made[kind])
            times[kind] += [taken] if index else []
    parts = {
        kind: {name: statistics.median(row[name] for row in rows) for name in rows[0]} for kind, rows in times.items()
    }
    print("| | forward | backward | optimiser | step | share of full | weight gradients | input gradients |")
    print("|---" * 8 + "|")
    full = sum(parts["full"].values())
    for kind, own in parts.items():
        whole = sum(own.values())
        numbers = " | ".join(f"{value:.3f}" for value in (*own.values(), whole, whole / full))
        work = [f"{count}, {size:.0f} GFLOP" for count, size in products(made[kind][0], made[kind][2]).values()]
        print(f"| {kind} | {numbers} | {' | '.join(work)} |")
    print("\n| | weights | gradients | moments | together | peak of a process |\n|---|---|---|---|---|---|")
    for kind in KINDS:
        command = [sys.executable, __file__, *sys.argv[1:], "--child", kind]
        told = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()[-1])
        peak, together = told.pop("peak"), sum(told.values())
        cells = " | ".join(f"{value / 1e6:.0f} MB" for value in (*told.values(), together, peak))
        print(f"| {kind} | {cells} |")


if __name__ == "__main__":
    main()
