"""New rows of the embeddings: two tables against peft's trainable tokens and against a mask on the whole matrix.

    python benchmarks/new_rows.py [--vocabulary 131072] [--width 2048] [--new 8192] [--tokens 512] [--rounds 3]

The input and the output embedding alone (untied, no blocks between them), their tables in bf16, in which the last rows
train: one forward and one backward pass over random tokens. Each way runs in processes of its own, in turn, so that a
slow minute of the machine meets all of them. Seconds are medians over the rounds, of a step after the first one; memory
is the process's peak above what it held before the tables were made. Only ratios mean something elsewhere.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

STEPS = 3


def tables(options: argparse.Namespace) -> Any:
    """A Llama without blocks, in bf16: embedding, norm, head."""
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=options.vocabulary,
        hidden_size=options.width,
        intermediate_size=options.width,
        num_hidden_layers=0,
        num_attention_heads=16,
        tie_word_embeddings=False,
    )
    torch.set_default_dtype(torch.bfloat16)
    model = LlamaForCausalLM(config)
    torch.set_default_dtype(torch.float32)
    return model.requires_grad_(False)


def full_logits(model: nn.Module) -> Callable[[torch.Tensor], torch.Tensor]:
    """The loss that transformers computes from all logits."""
    from adapt.training.loss import whole_loss

    return lambda ids: whole_loss(model(input_ids=ids, use_cache=False).logits, ids)


def two_tables(model: Any, rows: list[int]) -> Callable[[torch.Tensor], torch.Tensor]:
    """`adapt`: rows in float32 beside a frozen table, loss in chunks."""
    from adapt.training.loss import add_chunked_loss
    from adapt.training.two_tables import set_apart

    set_apart(model, torch.tensor(rows))
    add_chunked_loss(model)
    return lambda ids: model(input_ids=ids, labels=ids, chunked_loss=True, use_cache=False)["loss"]


def trainable_tokens(model: Any, rows: list[int]) -> Callable[[torch.Tensor], torch.Tensor]:
    """peft: its `TrainableTokens` on both embeddings; each step copies the rows into a copy of the matrix."""
    from peft import TrainableTokensConfig, get_peft_model

    config = TrainableTokensConfig(
        target_modules=["embed_tokens", "lm_head"], token_indices=rows, task_type="CAUSAL_LM"
    )
    return full_logits(get_peft_model(model, config))


def masked_matrix(model: Any, rows: list[int]) -> Callable[[torch.Tensor], torch.Tensor]:
    """The whole matrices train in float32, and a hook sets the gradients of their old rows to zero."""
    for module in (model.get_input_embeddings(), model.get_output_embeddings()):
        module.weight.data = module.weight.data.float()
        module.weight.requires_grad_(True)
        module.weight.register_hook(lambda gradient: gradient.index_fill(0, torch.arange(rows[0]), 0))
    return full_logits(model.float())


WAYS = {"two tables": two_tables, "peft trainable tokens": trainable_tokens, "masked float32 matrix": masked_matrix}


def resident() -> int:
    """Peak resident bytes of this process so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def measure(way: str, options: argparse.Namespace) -> dict[str, float]:
    """Seconds of a step, and peak bytes above those of the libraries."""
    import peft  # noqa: F401
    import transformers  # noqa: F401

    torch.manual_seed(0)
    before = resident()
    loss_of = WAYS[way](tables(options), list(range(options.vocabulary - options.new, options.vocabulary)))
    ids = torch.randint(0, options.vocabulary, (1, options.tokens))
    times = []
    for _ in range(STEPS):
        begin = time.perf_counter()
        with torch.autocast("cpu", torch.bfloat16):
            loss = loss_of(ids)
        loss.backward()
        times.append(time.perf_counter() - begin)
    return {"seconds": statistics.median(times[1:]), "bytes": resident() - before, "loss": loss.item() / options.tokens}


def main() -> None:
    """Run the rounds and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, value in {"vocabulary": 131072, "width": 2048, "new": 8192, "tokens": 512, "rounds": 3}.items():
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--only", choices=WAYS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.only:
        print(json.dumps(measure(options.only, options)))
        return
    results: dict[str, list[dict[str, float]]] = {way: [] for way in WAYS}
    for _ in range(options.rounds):
        for way in WAYS:
            command = [sys.executable, __file__, *sys.argv[1:], "--only", way]
            output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
            results[way].append(json.loads(output.splitlines()[-1]))
    print("| | seconds a step | peak memory | loss |\n|---|---|---|---|")
    for way, found in results.items():
        seconds, size, loss = (statistics.median(one[key] for one in found) for key in ("seconds", "bytes", "loss"))
        print(f"| {way} | {seconds:.2f} | {size / 1e9:.2f} GB | {loss:.3f} |")


if __name__ == "__main__":
    main()
