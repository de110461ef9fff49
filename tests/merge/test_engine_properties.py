"""Laws of merging, through the whole engine: plan, read, combine, write, on tiny checkpoints with random weights."""

from __future__ import annotations

import json
from pathlib import Path
from tempfile import TemporaryDirectory
from unittest.mock import patch

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from merge.engine import write
from merge.planning import prepare

SIZE, WIDTH = 40, 8
SHAPES = {
    "model.embed_tokens.weight": (SIZE, WIDTH),
    "model.layers.0.mlp.up_proj.weight": (12, WIDTH),
    "model.norm.weight": (WIDTH,),
    "lm_head.weight": (SIZE, WIDTH),
}
TYPES = st.sampled_from([torch.float32, torch.bfloat16])
FAST = "/dev/shm" if Path("/dev/shm").is_dir() else None
"""Where files are written without waiting for a disk: merges force theirs to it."""
SEEDS = st.integers(0, 2**31)
check = settings(max_examples=12, deadline=None)


def make(folder: Path, tensors, dtype=torch.float32) -> Path:
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({"model_type": "llama", "hidden_size": WIDTH, "vocab_size": SIZE}))
    vocabulary = {f"t{index}": index for index in range(SIZE)}
    document = {"added_tokens": [], "model": {"type": "BPE", "vocab": vocabulary, "merges": []}}
    (folder / "tokenizer.json").write_text(json.dumps(document))
    rounded = {name: tensor.to(dtype).contiguous() for name, tensor in tensors.items()}
    save_file(rounded, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


class Models:
    """`base` and its relatives `a`, `b`, `c` in a folder; `merge` gives the tensors of an expression's result."""

    def __init__(self, root: str, seed: int, dtype=torch.float32, count: int = 3, spread: float = 0.1) -> None:
        self.root, generator = Path(root), torch.Generator().manual_seed(seed)
        base = {name: torch.randn(shape, generator=generator) for name, shape in SHAPES.items()}
        self.folders = {"base": make(self.root / "base", base, dtype)}
        for name in "abc"[:count]:
            moved = {k: v + spread * torch.randn(v.shape, generator=generator) for k, v in base.items()}
            self.folders[name] = make(self.root / name, moved, dtype)

    def __getitem__(self, name: str) -> dict[str, torch.Tensor]:
        return load_file(self.folders[name] / "model.safetensors")

    def merge(self, expression, keep: str | None = None, dtype=None, threads=1):
        out = self.root / (keep or "out")
        write(prepare(expression, self.folders, dtype), out, threads=threads)
        found = load_file(out / "model.safetensors")
        if keep:
            self.folders[keep] = out
        else:
            for path in out.iterdir():
                path.unlink()
        return found


def close(found, expected, limit: float = 2e-6) -> None:
    assert set(found) == set(expected)
    for name, tensor in expected.items():
        assert (found[name].float() - tensor.float()).abs().max() <= limit, name


def equal(found, expected) -> None:
    assert set(found) == set(expected)
    for name, tensor in expected.items():
        assert torch.equal(found[name], tensor), name


@check
@given(SEEDS, TYPES, st.floats(0.01, 5), st.floats(0.01, 5))
def test_a_mean_of_one_model_is_the_model(seed, dtype, left, right):
    with TemporaryDirectory(dir=FAST) as root:
        models = Models(root, seed, dtype, 1)
        equal(models.merge("a"), models["a"])
        equal(models.merge("0.3 * a + 0.7 * a"), models["a"])
        found = models.merge(f"linear([a: {left:.4f}, a: {right:.4f}])")
        (equal if dtype == torch.bfloat16 else close)(found, models["a"])


@check
@given(SEEDS, TYPES, st.floats(0.001, 30))
def test_the_base_and_a_difference_is_the_model(seed, dtype, spread):
    """To the last bit: sums of float32 are taken in float64, those of bfloat16 in float32."""
    with TemporaryDirectory(dir=FAST) as root:
        models = Models(root, seed, dtype, 2, spread)
        equal(models.merge("base + (a - base)"), models["a"])
        equal(models.merge("b + (a - b)"), models["a"])
        equal(models.merge("b + 0.0 * (a - base)"), models["b"])
        equal(models.merge("base + 1.0 * (passthrough(a) - base)"), models["a"])


SYMMETRIC = (
    "linear([{0}: {w0}, {1}: {w1}, {2}: {w2}])",
    "base + {w0} * ({0} - base) + {w1} * ({1} - base) + {w2} * ({2} - base)",
    "ties(base, [{0}: {w0}, {1}: {w1}, {2}: {w2}], density=0.6)",
    "dare_ties(base, [{0}: {w0}, {1}: {w1}, {2}: {w2}], density=0.6, seed=5)",
    "della(base, [{0}: {w0}, {1}: {w1}, {2}: {w2}], density=0.6, seed=5)",
    "breadcrumbs(base, [{0}: {w0}, {1}: {w1}, {2}: {w2}], density=0.8)",
    "multislerp([{0}: {w0}, {1}: {w1}, {2}: {w2}])",
    "karcher({0}, {1}, {2}, tol=1e-9, max_iter=100)",
    "model_stock(base, [{0}, {1}, {2}])",
    "sce(base, [{0}, {1}, {2}], select_topk=0.7)",
)


@pytest.mark.parametrize("expression", SYMMETRIC, ids=lambda text: text.split("(")[0])
@settings(max_examples=4, deadline=None)
@given(SEEDS, st.permutations(range(3)))
def test_the_order_of_models_does_not_matter(expression, seed, order):
    weights = (0.5, 0.75, 1.25)
    with TemporaryDirectory(dir=FAST) as root:
        models = Models(root, seed)

        def merged(places):
            given_ = {f"w{index}": weights[place] for index, place in enumerate(places)}
            return models.merge(expression.format(*("abc"[place] for place in places), **given_))

        close(merged(order), merged(range(3)), 5e-6)


@check
@given(SEEDS, TYPES, st.floats(0.01, 2))
def test_the_ends_of_slerp_are_the_models(seed, dtype, spread):
    with TemporaryDirectory(dir=FAST) as root:
        models = Models(root, seed, dtype, 2, spread)
        limit = 2e-6 if dtype == torch.float32 else 0.0
        close(models.merge("slerp(a, b, t=0)"), models["a"], limit)
        close(models.merge("slerp(a, b, t=1)"), models["b"], limit)
        halves = (models.merge(f"slerp({pair}, t=0.5)", dtype=torch.float32) for pair in ("a, b", "b, a"))
        close(*halves, 5e-6)


KEPT_WHOLE = {
    "task_arithmetic": "",
    "ties": "density=1",
    "dare_linear": "density=1",
    "dare_ties": "density=1",
    "della_linear": "density=1, epsilon=0",
    "breadcrumbs": "density=1, gamma=0",
}


@check
@given(SEEDS, TYPES)
def test_one_model_that_is_kept_whole_is_the_model(seed, dtype):
    with TemporaryDirectory(dir=FAST) as root:
        models = Models(root, seed, dtype, 1)
        for method, whole in KEPT_WHOLE.items():
            found = models.merge(f"{method}(base, [a], {whole})" if whole else f"{method}(base, [a])")
            (equal if dtype == torch.bfloat16 else close)(found, models["a"])


NESTED = (
    ("ties(base, [a, {}], density=0.5)", "slerp(b, c, t=0.3)"),
    ("slerp({}, a, t=0.6)", "ties(base, [b, c], density=0.4)"),
    ("base + 0.5 * (a - base) + 0.25 * ({} - base)", "dare_ties(base, [b, c], density=0.5, seed=3)"),
    ("linear([a: 0.4, {}: 0.6])", "b + 0.5 * (c - base)"),
    ("model_stock(base, [a, {}])", "karcher(b, c)"),
)


@pytest.mark.parametrize(("outer", "inner"), NESTED, ids=lambda text: text.split("(")[0])
@settings(max_examples=4, deadline=None)
@given(SEEDS, TYPES)
def test_a_nested_call_is_two_merges(outer, inner, seed, dtype):
    """The inner result is kept in float32 in between; sums of float32 models alone are not rounded to it."""
    with TemporaryDirectory(dir=FAST) as root:
        models = Models(root, seed, dtype)
        at_once = models.merge(outer.format(inner), dtype=torch.float32)
        models.merge(inner, keep="inner", dtype=torch.float32)
        in_steps = models.merge(outer.format("inner"), dtype=torch.float32)
        exact = not inner.startswith("b +") and not outer.startswith("base +")
        (equal if exact else close)(at_once, in_steps)


EVERY = [text.format(*"abc", w0=0.5, w1=0.75, w2=1.25) for text in SYMMETRIC]
EVERY += ["slerp(a, b, t=0.3)", "nearswap(a, b, t=0.1)"]


@pytest.mark.parametrize("expression", EVERY, ids=lambda text: text.split("(")[0])
@settings(max_examples=4, deadline=None)
@given(SEEDS, st.integers(1, 80), st.integers(1, 5))
def test_blocks_and_threads_change_no_bit(expression, seed, block, threads):
    with TemporaryDirectory(dir=FAST) as root:
        models = Models(root, seed, torch.bfloat16)
        straight = models.merge(expression, threads=1)
        with patch.dict("merge.device.BLOCKS", cpu=block):
            equal(models.merge(expression, threads=threads), straight)
