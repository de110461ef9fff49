"""Merging three checkpoints: our engine, mergekit, a plain streaming loop and `cp`, one after the other in one run.

    python benchmarks/merge_speed.py                      every method, five times each (an hour)
    python benchmarks/merge_speed.py --layers 4 --repeats 1           every method once on small models (ten minutes)
    python benchmarks/merge_speed.py --methods task_arithmetic ties --repeats 3
    python benchmarks/merge_speed.py --no-mergekit --layers 4

Makes three bf16 Llamas (880 M parameters each with the default 17 layers, in three shards) in `--folder`. Every run is
a process of its own, with its start-up; wall time, processor time and the peak of anonymous memory are taken from
outside. What a start-up takes (a dry run of ours, mergekit's help, the loop's imports) is measured first and subtracted
in a column of its own. The plain loop is the floor: read every input once, add in float32, write once, one thread.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import psutil

HIDDEN, INTERMEDIATE, VOCABULARY, KEY_VALUE = 2048, 5632, 32_000, 256
SHARDS = 3
EXPRESSIONS = {
    "linear": "linear([cpt: 0.5, instruct: 0.5])",
    "task_arithmetic": "base + 1.0 * (cpt - base) + 0.8 * (instruct - base)",
    "slerp": "slerp(cpt, instruct, t=0.4)",
    "nuslerp": "nuslerp([cpt: 0.6, instruct: 0.4])",
    "karcher": "karcher(cpt, instruct)",
    "multislerp": "multislerp([cpt: 0.6, instruct: 0.4])",
    "model_stock": "model_stock(base, [cpt, instruct])",
    "ties": "ties(base, [cpt: 1.0, instruct: 0.8], density=0.5)",
    "dare_linear": "dare_linear(base, [cpt: 1.0, instruct: 0.8], density=0.5)",
    "dare_ties": "dare_ties(base, [cpt: 1.0, instruct: 0.8], density=0.5)",
    "della": "della(base, [cpt: 1.0, instruct: 0.8], density=0.5)",
    "breadcrumbs": "breadcrumbs(base, [cpt: 1.0, instruct: 0.8], density=0.5)",
    "sce": "sce(base, [cpt, instruct], select_topk=0.5)",
}
MODELS = ("base", "cpt", "instruct")
LOOP = """
import json, sys, torch
from pathlib import Path
from safetensors import safe_open
torch.set_num_threads(1)
folders, out = [Path(p) for p in sys.argv[1:4]], Path(sys.argv[4])
out.mkdir()
index = json.loads((folders[0] / "model.safetensors.index.json").read_text())["weight_map"]
for shard in sorted(set(index.values())):
    files = [safe_open(folder / shard, "pt") for folder in folders]
    with open(folders[0] / shard, "rb") as source, open(out / shard, "wb") as target:
        head = source.read(8)
        head += source.read(int.from_bytes(head, "little"))
        target.write(head)
        entries = json.loads(head[8:]); entries.pop("__metadata__", None)
        for name in sorted(entries, key=lambda n: entries[n]["data_offsets"][0]):
            base, cpt, inst = (file.get_tensor(name).view(-1) for file in files)
            for at in range(0, base.numel(), 2**18):
                part = slice(at, at + 2**18)
                ground = base[part].float()
                total = cpt[part].float().add_(inst[part].float().sub_(ground), alpha=0.8)
                target.write(memoryview(total.bfloat16().view(torch.uint8).numpy()))
"""


def make_models(folder: Path, layers: int) -> None:
    """Three relatives with random weights, and one small tokenizer for all of them."""
    import torch
    from safetensors.torch import save_file
    from tokenizers import Tokenizer, models, pre_tokenizers

    shapes = {"model.embed_tokens.weight": (VOCABULARY, HIDDEN)}
    for layer in range(layers):
        place = f"model.layers.{layer}"
        for name, rows in (("q", HIDDEN), ("k", KEY_VALUE), ("v", KEY_VALUE), ("o", HIDDEN)):
            shapes[f"{place}.self_attn.{name}_proj.weight"] = (rows, HIDDEN)
        shapes[f"{place}.mlp.gate_proj.weight"] = shapes[f"{place}.mlp.up_proj.weight"] = (INTERMEDIATE, HIDDEN)
        shapes[f"{place}.mlp.down_proj.weight"] = (HIDDEN, INTERMEDIATE)
        shapes[f"{place}.input_layernorm.weight"] = shapes[f"{place}.post_attention_layernorm.weight"] = (HIDDEN,)
    shapes |= {"model.norm.weight": (HIDDEN,), "lm_head.weight": (VOCABULARY, HIDDEN)}
    vocabulary = {f"t{index}": index for index in range(VOCABULARY)}
    tokenizer = Tokenizer(models.BPE(vocabulary, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel()
    config = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_size": HIDDEN,
        "intermediate_size": INTERMEDIATE,
        "num_hidden_layers": layers,
        "num_attention_heads": 32,
        "num_key_value_heads": 4,
        "vocab_size": VOCABULARY,
        "tie_word_embeddings": False,
        "dtype": "bfloat16",
    }
    names = list(shapes)
    for seed, model in enumerate(MODELS):
        place = folder / model
        place.mkdir(parents=True)
        (place / "config.json").write_text(json.dumps(config))
        tokenizer.save(str(place / "tokenizer.json"))
        weight_map = {}
        for shard in range(SHARDS):
            part = names[shard * len(names) // SHARDS : (shard + 1) * len(names) // SHARDS]
            file = f"model-{shard + 1:05d}-of-{SHARDS:05d}.safetensors"
            tensors = {}
            for name in part:
                key = names.index(name)
                tensor = torch.randn(shapes[name], generator=torch.Generator().manual_seed(key)) * 0.02
                if seed:
                    noise = torch.randn(shapes[name], generator=torch.Generator().manual_seed(10_000 * seed + key))
                    tensor += noise * (0.002 if model == "cpt" else 0.001)
                tensors[name] = tensor.bfloat16()
            save_file(tensors, place / file, metadata={"format": "pt"})
            weight_map |= dict.fromkeys(part, file)
        (place / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))


def mergekit_yaml(method: str, folder: Path) -> str:
    """mergekit's settings of the same merge."""
    weights = {"cpt": 1.0, "instruct": 0.8}
    if method in ("linear", "nuslerp", "multislerp", "karcher", "slerp"):
        weights = {"cpt": 0.6, "instruct": 0.4}
    lines = [f"merge_method: {method}", "dtype: bfloat16", "models:"]
    if method in ("slerp",):
        lines += [f"- model: {folder / name}" for name in weights]
        lines += [f"base_model: {folder / 'cpt'}", "parameters: {t: 0.4}"]
        return "\n".join(lines)
    for name, weight in weights.items():
        sparse = method in ("ties", "dare_linear", "dare_ties", "della", "breadcrumbs")
        density = ", density: 0.5" if sparse else ""
        given = "" if method in ("karcher", "model_stock", "sce") else f"\n  parameters: {{weight: {weight}{density}}}"
        lines.append(f"- model: {folder / name}{given}")
    if method not in ("linear", "nuslerp", "multislerp", "karcher"):
        lines.append(f"base_model: {folder / 'base'}")
    if method == "sce":
        lines.append("parameters: {select_topk: 0.5}")
    return "\n".join(lines)


def commands(method: str, folder: Path, out: Path, scratch: Path, with_mergekit: bool) -> dict[str, list[str]]:
    """The processes to time, by name."""
    bin_folder = Path(sys.executable).parent
    models = [f"{name}={folder / name}" for name in MODELS if name in EXPRESSIONS[method]]
    ours = [str(bin_folder / "adapt"), "merge", EXPRESSIONS[method], *models, "-o", str(out), "--quiet"]
    found = {"adapt, 1 thread": [*ours, "--threads", "1"], "adapt, 2 threads": [*ours, "--threads", "2"]}
    if method == "task_arithmetic":
        loop = scratch / "loop.py"
        loop.write_text(LOOP)
        found["plain loop, 1 thread"] = [sys.executable, str(loop), *(str(folder / m) for m in MODELS), str(out)]
        found["cp"] = ["cp", "-r", str(folder / "base"), str(out)]
    if with_mergekit:
        yaml = scratch / "merge.yaml"
        yaml.write_text(mergekit_yaml(method, folder))
        found["mergekit"] = [str(bin_folder / "mergekit-yaml"), str(yaml), str(out), "-j", "1", "--quiet"]
    return found


def startups(folder: Path, out: Path, with_mergekit: bool) -> dict[str, list[str]]:
    """Processes that end where the others begin to merge, by the first word of their names."""
    bin_folder = Path(sys.executable).parent
    models = [f"{name}={folder / name}" for name in ("cpt", "instruct")]
    ours = [str(bin_folder / "adapt"), "merge", EXPRESSIONS["linear"], *models, "-o", str(out), "--quiet", "--dry-run"]
    found = {"adapt": ours, "plain": [sys.executable, "-c", LOOP.split("torch.set_num_threads")[0]]}
    if with_mergekit:
        found["mergekit"] = [str(bin_folder / "mergekit-yaml"), "--help"]
    return found


def rows(method: str, found: dict[str, list[dict[str, float]]], begin: dict[str, float]) -> Iterator[str]:
    """A method's lines of the table: medians, and how many times as long mergekit takes with and without start-up."""
    middle = {
        name: {key: statistics.median(run[key] for run in runs) for key in ("wall", "cpu", "memory")}
        for name, runs in found.items()
    }
    beyond = {name: values["cpu"] - begin.get(name.split(",")[0].split()[0], 0.0) for name, values in middle.items()}
    for name, values in middle.items():
        times = ""
        if "mergekit" in middle and name != "mergekit":
            times = f"{middle['mergekit']['cpu'] / values['cpu']:.1f}, {beyond['mergekit'] / beyond[name]:.1f}"
        yield (
            f"| {method} | {name} | {values['wall']:.1f} | {values['cpu']:.1f} | {beyond[name]:.1f} | {times} | "
            f"{values['memory']:.0f} |"
        )


def measured(command: list[str], out: Path) -> dict[str, float]:
    """Wall and processor seconds and the peak of anonymous memory of a process."""
    shutil.rmtree(out, ignore_errors=True)
    before, start = os.times(), time.perf_counter()
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    peak, done = [0], threading.Event()

    def watch() -> None:
        while not done.wait(0.02):
            try:
                text = Path(f"/proc/{process.pid}/status").read_text()
            except OSError:
                return
            found = [line.split()[1] for line in text.splitlines() if line.startswith("RssAnon")]
            peak[0] = max(peak[0], int(found[0]) if found else 0)

    watcher = threading.Thread(target=watch)
    watcher.start()
    _, errors = process.communicate()
    wall, after = time.perf_counter() - start, os.times()
    done.set()
    watcher.join()
    if process.returncode:
        raise SystemExit(f"{command[0]} failed: {errors.decode()[-500:]}")
    cpu = after.children_user + after.children_system - before.children_user - before.children_system
    return {"wall": wall, "cpu": cpu, "memory": peak[0] / 1024}


def main() -> None:
    """Print a table of medians, and each as a ratio to the plain loop or to mergekit."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()) / "merge-speed")
    parser.add_argument("--methods", nargs="*", default=list(EXPRESSIONS), choices=list(EXPRESSIONS))
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--layers", type=int, default=17)
    parser.add_argument("--no-mergekit", action="store_true")
    options = parser.parse_args()
    models = options.folder / f"{options.layers}-layers"
    if not models.exists():
        make_models(models, options.layers)
    out, scratch = options.folder / "out", options.folder / "scratch"
    scratch.mkdir(exist_ok=True)
    print(f"{psutil.cpu_count()} processors, load {os.getloadavg()[0]:.1f}, {options.repeats} runs of each in turn\n")
    begin = {}
    for name, command in startups(models, out, not options.no_mergekit).items():
        begin[name] = statistics.median(measured(command, out)["cpu"] for _ in range(3))
        print(f"start-up of {name}: {begin[name]:.1f} processor seconds")
    print("\n| method | run | wall s | processor s | beyond start-up | mergekit's multiple | anonymous MB |")
    print("|---" * 7 + "|", flush=True)
    for method in options.methods:
        runs = commands(method, models, out, scratch, not options.no_mergekit)
        found: dict[str, list[dict[str, float]]] = {name: [] for name in runs}
        for _ in range(options.repeats):
            for name, command in runs.items():
                found[name].append(measured(command, out))
        print("\n".join(rows(method, found, begin)), flush=True)
    shutil.rmtree(out, ignore_errors=True)


if __name__ == "__main__":
    main()
