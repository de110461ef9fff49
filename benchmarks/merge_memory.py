"""The peak of anonymous memory of every merge method, on checkpoints with one very large matrix or many large ones.

    python benchmarks/merge_memory.py                          every method on a 128k x 4096 bf16 head, 2 threads
    python benchmarks/merge_memory.py --rows 64000 --methods ties della --threads 1
    python benchmarks/merge_memory.py --limit 300              each under a limit on the data that the process may hold
    python benchmarks/merge_memory.py --rows 8192 --matrices 16 --threads 1 2 4 16       many matrices at once

Every merge is a process of its own. Counted is what it holds beyond `import torch` (RssAnon of /proc, every 5 ms); with
`--limit`, RLIMIT_DATA is set to that many MB above what the process has mapped after the import, and a merge that asks
for more fails.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

WIDTH = 4096
MODELS = ("base", "a", "b")
HEAD = "lm_head.weight"
MATRIX = "model.layers.{}.mlp.up_proj.weight"
EXPRESSIONS = {
    "linear": "linear([a: 0.5, b: 0.5])",
    "task_arithmetic": "base + 1.0 * (a - base) + 0.8 * (b - base)",
    "lora": "base + 0.7 * one + 0.3 * two",
    "slerp": "slerp(a, b, t=0.4)",
    "nuslerp": "nuslerp([a: 0.6, b: 0.4])",
    "multislerp": "multislerp([a: 0.6, b: 0.4])",
    "karcher": "karcher(a, b)",
    "model_stock": "model_stock(base, [a, b])",
    "ties": "ties(base, [a: 1.0, b: 0.8], density=0.5)",
    "dare_linear": "dare_linear(base, [a: 1.0, b: 0.8], density=0.5)",
    "dare_ties": "dare_ties(base, [a: 1.0, b: 0.8], density=0.5)",
    "della": "della(base, [a: 1.0, b: 0.8], density=0.5)",
    "della_linear": "della_linear(base, [a: 1.0, b: 0.8], density=0.5)",
    "breadcrumbs": "breadcrumbs(base, [a: 1.0, b: 0.8], density=0.5)",
    "breadcrumbs_ties": "breadcrumbs_ties(base, [a: 1.0, b: 0.8], density=0.5)",
    "sce": "sce(base, [a, b], select_topk=0.5)",
    "nearswap": "nearswap(a, b, t=0.001)",
    "arcee_fusion": "arcee_fusion(base, a)",
    "ram": "ram(base, [a, b])",
    "ramplus_tl": "ramplus_tl(base, [a, b])",
    "half_reset": "half_reset(a, base, ratio=0.5)",
    "passthrough": "passthrough(a)",
}
MERGE = """
import json, resource, sys
from pathlib import Path
import numpy, torch
import merge.engine, merge.planning
torch.randn(4, 4) @ torch.randn(4, 4)
limit, threads = float(sys.argv[4]), int(sys.argv[5])
status = [line.split() for line in open("/proc/self/status")]
now = {line[0].rstrip(":"): int(line[1]) for line in status if line[0] in ("VmData:", "RssAnon:")}
print(now["RssAnon"], flush=True)
if limit:
    most = now["VmData"] * 1024 + int(limit * 2**20)
    resource.setrlimit(resource.RLIMIT_DATA, (most, most))
folders = {name: Path(place) for name, place in json.loads(sys.argv[2]).items()}
plan = merge.planning.prepare(sys.argv[1], folders)
merge.engine.write(plan, Path(sys.argv[3]), threads=threads)
"""


def make_models(folder: Path, rows: int, matrices: int) -> None:
    """Three relatives of a small embedding, a head and as many matrices of its size, and two adapters of the head."""
    import torch
    from safetensors.torch import save_file

    config = {"model_type": "llama", "hidden_size": WIDTH, "vocab_size": rows, "tie_word_embeddings": False}
    vocabulary = {f"t{index}": index for index in range(rows)}
    tokenizer = {"added_tokens": [], "model": {"type": "BPE", "vocab": vocabulary, "merges": []}}
    generator = torch.Generator().manual_seed(0)
    head = (torch.randn(rows, WIDTH, generator=generator) * 0.02).bfloat16()
    for seed, name in enumerate(MODELS):
        place = folder / name
        place.mkdir(parents=True)
        (place / "config.json").write_text(json.dumps(config))
        (place / "tokenizer.json").write_text(json.dumps(tokenizer))
        noise = torch.Generator().manual_seed(seed)
        moved = head.clone()
        for part in moved.split(2048) if seed else ():
            part += (torch.randn(part.shape, generator=noise) * 0.002).bfloat16()
        tensors = {"model.embed_tokens.weight": torch.ones(rows, 1).bfloat16(), HEAD: moved}
        tensors |= {MATRIX.format(layer): moved.roll(layer + 1, 0) for layer in range(matrices)}
        save_file(tensors, place / "model.safetensors", metadata={"format": "pt"})
    for seed, name in enumerate(("one", "two")):
        place = folder / name
        place.mkdir(parents=True)
        settings = {"peft_type": "LORA", "r": 16, "lora_alpha": 16, "base_model_name_or_path": str(folder / "base")}
        (place / "adapter_config.json").write_text(json.dumps(settings))
        noise = torch.Generator().manual_seed(10 + seed)
        parts = {
            "lora_A": torch.randn(16, WIDTH, generator=noise) * 0.01,
            "lora_B": torch.randn(rows, 16, generator=noise) * 0.01,
        }
        tensors = {f"base_model.model.lm_head.{part}.weight": tensor for part, tensor in parts.items()}
        save_file(tensors, place / "adapter_model.safetensors", metadata={"format": "pt"})


def measured(expression: str, folder: Path, out: Path, limit: float, threads: int) -> dict[str, float | str]:
    """Seconds, MB of anonymous memory beyond the import at the peak, and the error if there was one."""
    from merge.formula import names_in

    shutil.rmtree(out, ignore_errors=True)
    folders = json.dumps({name: str(folder / name) for name in names_in(expression)})
    command = [sys.executable, "-c", MERGE, expression, folders, str(out), str(limit), str(threads)]
    root = str(Path(__file__).parent.parent)
    start, peak = time.perf_counter(), [0]
    process = subprocess.Popen(
        command,
        cwd=root,
        env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": root},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    done = threading.Event()

    def watch() -> None:
        while not done.wait(0.005):
            try:
                text = Path(f"/proc/{process.pid}/status").read_text()
            except OSError:
                return
            found = [int(line.split()[1]) for line in text.splitlines() if line.startswith("RssAnon")]
            peak[0] = max([peak[0], *found])

    watcher = threading.Thread(target=watch)
    watcher.start()
    output, errors = process.communicate()
    done.set()
    watcher.join()
    shutil.rmtree(out, ignore_errors=True)
    before = int(output.split()[0]) if output.split() else 0
    error = errors.strip().splitlines()[-1] if process.returncode else ""
    return {"seconds": time.perf_counter() - start, "memory": (peak[0] - before) / 1024, "error": error}


def main() -> None:
    """Print a table: the peak of each method in MB beyond the import."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()) / "merge-memory")
    parser.add_argument("--rows", type=int, default=128_000)
    parser.add_argument("--matrices", type=int, default=0, help="Matrices of the head's size beside it")
    parser.add_argument("--threads", type=int, nargs="*", default=[2])
    parser.add_argument("--limit", type=float, default=0.0, help="MB; 0 for none")
    parser.add_argument("--methods", nargs="*", default=list(EXPRESSIONS), choices=list(EXPRESSIONS))
    options = parser.parse_args()
    models = options.folder / f"{options.rows}-{options.matrices}"
    if not models.exists():
        make_models(models, options.rows, options.matrices)
    shape = f"{1 + options.matrices} of {options.rows:,} x {WIDTH} in bf16"
    print(f"{shape}, limit {options.limit:g} MB; anonymous MB beyond the import (seconds)\n")
    print(f"| method | {' | '.join(f'{count} threads' for count in options.threads)} |")
    print("|---" * (1 + len(options.threads)) + "|")
    for method in options.methods:
        cells = []
        for threads in options.threads:
            found = measured(EXPRESSIONS[method], models, options.folder / "out", options.limit, threads)
            cells.append(found["error"] or f"{found['memory']:.0f} ({found['seconds']:.0f})")
        print(f"| {method} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
