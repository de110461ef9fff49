"""What a mixture of adapters costs beside one LoRA: a step, generation, and the two products by shapes.

    python benchmarks/mixture_step.py [--adapters 1 4 8 28 64] [--rank 16] [--width 1024] [--tokens 512] [--rounds 3]
    python benchmarks/mixture_step.py --products        # the table that the cost model is fitted to
    python benchmarks/mixture_step.py --memory          # what is kept for the backward pass of one layer

A Llama of some blocks with random weights; all seven projections of a block are adapted, and all adapters and gates
train. A step is forward and backward. Rivals: peft's LoRA of the same rank (the unit), a loop that computes every
adapter on every token, peft's X-LoRA (k of all, two passes, no cache), and for generation peft's batch of mixed
adapters, where each row has one adapter and no gate. Medians of seconds of the process, interleaved.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn

from adapt.mixture.adapters import fresh_part, linear_layers
from adapt.mixture.assembly import mixture_of
from adapt.mixture.bases import Base
from adapt.mixture.gates import Gates
from adapt.mixture.layer import MixtureLinear
from adapt.mixture.products.choice import PRODUCTS, choose
from adapt.mixture.routers.token import Token
from adapt.mixture.stack import Factors, Stack

Timed = dict[str, Callable[[], Any]]


def llama(options: argparse.Namespace) -> Any:
    """The base, with the same weights each time."""
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(
        hidden_size=options.width,
        intermediate_size=options.width * 11 // 4,
        num_hidden_layers=options.layers,
        num_attention_heads=options.width // 64,
        vocab_size=512,
        eos_token_id=None,
        pad_token_id=0,
    )
    return LlamaForCausalLM(config).to(getattr(torch, options.dtype)).requires_grad_(False)


def blocks_linear(model: Any) -> dict[str, tuple[int, int]]:
    """The projections of the blocks."""
    return {name: size for name, size in linear_layers(model).items() if "layers" in name}


def peft_lora(options: argparse.Namespace, count: int = 1) -> Any:
    """peft's LoRA, `count` adapters of one shape."""
    from peft import LoraConfig, get_peft_model

    model = llama(options)
    config = LoraConfig(r=options.rank, lora_alpha=options.rank, target_modules=sorted(blocks_linear(model)))
    model = get_peft_model(model, config, adapter_name="0", autocast_adapter_dtype=False)
    for index in range(1, count):
        model.add_adapter(str(index), config)
    return model


def mixture(options: argparse.Namespace, count: int, k: int) -> Any:
    """Ours: a gate of its own in each layer, the k best adapters of each token."""
    model, base = llama(options), Base("benchmark", None, "")
    parts = {f"a{i}": fresh_part(blocks_linear(model), options.rank, options.rank, base) for i in range(count)}
    model = mixture_of(model, parts, Token(k=min(k, count)), base=base, trainable=True)
    for layer in model.modules():
        if isinstance(layer, MixtureLinear):
            layer.stack.to(model.dtype)
    return model


class Loop(nn.Module):
    """Every adapter on every token, one after the other, weighed by the same gate."""

    def __init__(self, layer: MixtureLinear) -> None:
        super().__init__()
        self.base, self.router, self.routing = layer.base, layer.router, layer._routing
        self.down, self.up = nn.ModuleList(), nn.ModuleList()
        inner, outer = layer.stack.size
        for rank in layer.stack.ranks:
            self.down.append(nn.Linear(inner, rank, bias=False, dtype=layer.stack.a.dtype))
            self.up.append(nn.Linear(rank, outer, bias=False, dtype=layer.stack.a.dtype))

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        weights = self.router(inputs, self.routing).dense(len(self.down)).to(inputs.dtype)
        output = self.base(inputs)
        for index, (down, up) in enumerate(zip(self.down, self.up, strict=True)):
            output = output + weights[..., index : index + 1] * up(down(inputs))
        return output


def loop(options: argparse.Namespace, count: int, k: int) -> Any:
    """The same mixture, top-k, computed by the loop."""
    model = mixture(options, count, k)
    for name, layer in list(model.named_modules()):
        if isinstance(layer, MixtureLinear):
            model.set_submodule(name, Loop(layer))
    return model


def x_lora(options: argparse.Namespace, count: int, k: int) -> Any:
    """peft's X-LoRA over `count` adapters that train."""
    from peft import XLoraConfig, get_peft_model

    with tempfile.TemporaryDirectory() as place:
        peft_lora(options).save_pretrained(place)
        folder = str(Path(place) / "0")
        model = llama(options)
        model.config.use_cache = False
        config = XLoraConfig(
            task_type="CAUSAL_LM",
            hidden_size=options.width,
            adapters={str(index): folder for index in range(count)},
            use_trainable_adapters=True,
            layerwise_scalings=True,
            top_k_lora=min(k, count),
            enable_softmax=False,
            enable_softmax_topk=True,
        )
        return get_peft_model(model, config)


def step(model: Any, ids: torch.Tensor) -> None:
    """Forward and backward."""
    model.train()
    model.zero_grad(set_to_none=True)
    model(input_ids=ids, labels=ids, use_cache=False).loss.backward()


def generate(model: Any, rows: int, new: int, cache: bool = True, **more: Any) -> None:
    """`new` tokens for each row after a prompt of 16."""
    model.eval()
    ids = torch.arange(rows * 16).view(rows, 16) % 500 + 1
    with torch.no_grad():
        model.generate(input_ids=ids, max_new_tokens=new, do_sample=False, use_cache=cache, **more)


def medians(timed: Timed, rounds: int) -> dict[str, float]:
    """Seconds of the process, one of each in turn; the first round is not counted."""
    times: dict[str, list[float]] = {name: [] for name in timed}
    for index in range(rounds + 1):
        for name, act in timed.items():
            began = time.process_time()
            act()
            if index:
                times[name].append(time.process_time() - began)
    return {name: statistics.median(values) for name, values in times.items()}


def models(options: argparse.Namespace) -> None:
    """The table of steps and generation."""
    print("| adapters | | one LoRA | top-1 | top-2 | loop | X-LoRA | peft, mixed batch |\n" + "|---" * 8 + "|")
    rows = 4
    ids = torch.arange(options.tokens).view(rows, -1) % 500 + 1
    for count in options.adapters:
        made = {"lora": peft_lora(options), "top-1": mixture(options, count, 1), "top-2": mixture(options, count, 2)}
        made |= {"loop": loop(options, count, 2), "x-lora": x_lora(options, count, 2)}
        found = medians({name: lambda m=model: step(m, ids) for name, model in made.items()}, options.rounds)
        report(count, "step", found)
        mixed = peft_lora(options, count)
        timed: Timed = {
            name: lambda m=model, n=name: generate(m, rows, options.new, n != "x-lora") for name, model in made.items()
        }
        named = [str(index % count) for index in range(rows)]
        timed["mixed"] = lambda m=mixed, names=named: generate(m, rows, options.new, adapter_names=names)
        report(count, "generation", medians(timed, options.rounds))


def report(count: int, what: str, found: dict[str, float]) -> None:
    """A line: seconds of one LoRA, the others as multiples of it."""
    unit = found.pop("lora")
    numbers = [f"{value / unit:.2f}" for value in found.values()]
    print(f"| {count} | {what} | {unit:.3f} s | {' | '.join(numbers + [''] * (5 - len(numbers)))} |", flush=True)


def stack_of(count: int, rank: int, width: int, kind: torch.dtype) -> Stack:
    """Random adapters that all train."""
    factors = {
        f"a{i}": Factors(torch.randn(rank, width).to(kind) / 32, torch.randn(width, rank).to(kind) / 32, 1.0)
        for i in range(count)
    }
    return Stack(factors, (width, width), list(factors))


def drawn(tokens: int, count: int, k: int) -> Gates:
    """Random choices."""
    weights, chosen = torch.rand(tokens, count).topk(k, -1)
    return Gates(weights.softmax(-1).requires_grad_(), chosen)


def products(options: argparse.Namespace) -> None:
    """Both products alone, forward and backward, and which one the cost model takes."""
    print("| tokens | width | adapters | k | rank | concat ms | grouped ms | taken |\n" + "|---" * 8 + "|")
    shapes = [
        (tokens, width, count, k, rank)
        for width in (256, 512, 1024, 2048)
        for tokens in (1, 16, 256, 1024)
        for count, k, rank in ((4, 2, 16), (8, 2, 16), (28, 1, 16), (28, 2, 16), (28, 2, 8), (64, 2, 16))
    ]
    for tokens, width, count, k, rank in shapes:
        stack, gates = stack_of(count, rank, width, getattr(torch, options.dtype)), drawn(tokens, count, k)
        inputs = torch.randn(tokens, width, dtype=stack.a.dtype, requires_grad=True)

        def act(product: Any, stack: Stack = stack, gates: Gates = gates, inputs: torch.Tensor = inputs) -> None:
            for tensor in (inputs, gates.weights, *stack.parameters()):
                tensor.grad = None
            product(inputs, stack, gates).sum().backward()

        found = medians({name: lambda p=product: act(p) for name, product in PRODUCTS.items()}, options.rounds)
        numbers = " | ".join(f"{value * 1e3:.2f}" for value in found.values())
        taken = choose(tokens, stack.ranks, k, width, width, "cpu")
        print(f"| {tokens} | {width} | {count} | {k} | {rank} | {numbers} | {taken} |", flush=True)


def memory(options: argparse.Namespace) -> None:
    """Bytes that one layer keeps for its backward pass beyond inputs and parameters, by product and plainly."""

    def plain(inputs: torch.Tensor, stack: Stack, gates: Gates) -> torch.Tensor:
        weights = gates.dense(len(stack.names)) * stack.scales
        return ((inputs @ stack.a.T) * weights[..., stack.owner].to(inputs.dtype)) @ stack.b.T

    print("| tokens | adapters | product | kept MB |\n" + "|---" * 4 + "|")
    for count in (8, 28, 64):
        stack = stack_of(count, options.rank, options.width, torch.float32)
        for name, product in {"plain": plain, **PRODUCTS}.items():
            inputs = torch.randn(options.tokens, options.width, requires_grad=True)
            gates = drawn(options.tokens, count, 2)
            known = {t.untyped_storage().data_ptr() for t in (inputs, gates.weights, gates.chosen, *stack.parameters())}
            kept: dict[int, int] = {}

            def keep(tensor: torch.Tensor, kept: dict[int, int] = kept, known: set[int] = known) -> torch.Tensor:
                storage = tensor.untyped_storage()
                kept |= {} if storage.data_ptr() in known else {storage.data_ptr(): storage.nbytes()}
                return tensor

            with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
                output = product(inputs, stack, gates)
            print(f"| {options.tokens} | {count} | {name} | {sum(kept.values()) / 1e6:.2f} |")
            del output


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--adapters", type=int, nargs="+", default=[1, 4, 8, 28, 64])
    parser.add_argument("--rank", type=int, default=16)
    parser.add_argument("--width", type=int, default=1024)
    parser.add_argument("--layers", type=int, default=1)
    parser.add_argument("--tokens", type=int, default=512)
    parser.add_argument("--new", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], default="float32")
    parser.add_argument("--products", action="store_true")
    parser.add_argument("--memory", action="store_true")
    options = parser.parse_args()
    warnings.filterwarnings("ignore")
    torch.set_num_threads(1)
    torch.manual_seed(0)
    (products if options.products else memory if options.memory else models)(options)


if __name__ == "__main__":
    main()
