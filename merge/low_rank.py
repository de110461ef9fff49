"""LoRA adapters from differences of models: each matrix's difference by its largest singular values.

`d = chat - base` is cut to `B A` with `B = U sqrt(S)`, `A = sqrt(S) Vᵀ` of the truncated singular value decomposition,
the best approximation of its rank (Eckart and Young 1936). Norms, biases, embeddings and the head are no low-rank
matters: their share of the difference is said, and they can be saved whole.
"""

from __future__ import annotations

import json
import os
import shutil
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from merge.adapters import CONFIG, WEIGHTS
from merge.engine import merged
from merge.errors import MergeError
from merge.kinds import kind_of
from merge.parallel import at_once
from merge.planning import Merge, prepare
from merge.singular_values import factors, sum_of_squares
from merge.writer import Output

RECORD = "low_rank.json"
WHOLE = ("embeddings", "norms")
"""Kinds of tensors that can be saved whole."""
_TRANSPOSED = ("gpt2", "openai-gpt", "imagegpt")  # their matrices stand as [in, out]


@dataclass(frozen=True)
class _Found:
    """What was made of one tensor: its factors or its whole value, and sums of squares of it and of what is lost."""

    squares: float
    lost: float
    tensors: Mapping[str, torch.Tensor]
    rank: int = 0


def extract_lora(
    expression: str,
    folders: Mapping[str, Path],
    output: Path,
    rank: int = 16,
    energy: float | None = None,
    save_whole: Sequence[str] = (),
    threads: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, Any]:
    """Write a difference of models, such as `chat - base`, as a peft adapter of the model that is subtracted.

    Returns, and writes to `low_rank.json`: the `error` |d - BA| / |d| in all (what is left out counts as lost) and per
    kind of module in `kinds`, with its share `energy` of |d|^2; the shares of what is `left_out` and `saved_whole`.
    Rows of tokens count where both models have them. Raises MergeError as `prepare` does, for an expression without
    one model that is subtracted, for kinds that cannot be saved whole, and for an output in the way.
    """
    _check(energy, save_whole, output)
    vector = prepare(expression, folders, torch.float32, as_vector=True)
    vector = replace(vector, roles=replace(vector.roles, special_from=None))  # differences alone, in every row
    base = _base(vector)
    if "embeddings" in save_whole:
        _check_rows(vector, base)
    done = [0]

    def work(out: Output) -> tuple[str, _Found]:
        found = _found(vector, base, out, rank, energy, save_whole)
        done[0] += out.size
        if progress is not None:
            progress(min(done[0], vector.size), vector.size)
        return out.name, found

    everything = dict(at_once(work, vector.outputs, threads))
    found = {name: entry for name, entry in everything.items() if entry.squares > 0}
    if not any(entry.rank for entry in found.values()):
        raise MergeError(f"'{expression}' changes no matrix, so there is nothing to write")
    report = _report(vector, found, rank, energy)
    config = _config(vector, base, found, rank)
    _write(output, config, {k: v for entry in found.values() for k, v in entry.tensors.items()}, report)
    return report


def _check(energy: float | None, save_whole: Sequence[str], output: Path) -> None:
    if energy is not None and not 0 < energy <= 1:
        raise MergeError(f"energy is {energy:g}; it is a share above 0, at most 1, for example 0.9")
    for kind in save_whole:
        if kind not in WHOLE:
            raise MergeError(f"'{kind}' cannot be saved whole; {' and '.join(WHOLE)} can")
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise MergeError(f"'{output}' is not empty; give a new folder, so that no stale file stays beside the result")


def _base(vector: Merge) -> str:
    """The model that the adapter belongs to."""
    taken = [name for name, weight in vector.combination.coefficients.items() if weight < 0]
    if len(taken) != 1:
        raise MergeError(
            f"'{vector.combination.text}' subtracts {len(taken)} models; an adapter belongs to the one that is "
            "subtracted: write a difference like chat - base"
        )
    return taken[0]


def _check_rows(vector: Merge, base: str) -> None:
    """Raise MergeError where embeddings cannot be saved whole: a tied head, or tokens in other rows."""
    if vector.checkpoints[base].head is None:
        raise MergeError(
            f"the head of '{base}' is its embedding, of which peft would load a copy for the head alone; embeddings "
            "that are tied cannot be saved whole"
        )
    tokens = torch.tensor([token is not None for token in vector.rows.tokens])
    own = torch.arange(vector.rows.height)
    for name, sources in vector.rows.sources.items():
        if len(own) != vector.checkpoints[base].height or not torch.equal(sources[tokens], own[tokens]):
            raise MergeError(
                f"'{name}' and '{vector.roles.anchor}' do not have the same tokens in the same rows, so embeddings "
                "cannot be saved whole for a loader that keeps the base's tokenizer"
            )


def _found(vector: Merge, base: str, out: Output, rank: int, energy: float | None, save_whole: Sequence[str]) -> _Found:
    difference = torch.cat([block.reshape(-1) for _, block in merged(vector, out)]).view(out.shape)
    squares = sum_of_squares(difference)
    module, _, part = out.name.rpartition(".")
    kind = kind_of(out.name)
    if squares == 0:
        return _Found(0.0, 0.0, {})
    if part == "weight" and difference.dim() == 2 and kind not in WHOLE:
        b, a = factors(difference, rank, energy)
        lost = sum_of_squares(torch.addmm(difference, b, a, alpha=-1))
        if _transposed(vector, base):
            b, a = a.T.contiguous(), b.T.contiguous()
        place = f"base_model.model.{module}"
        return _Found(squares, lost, {f"{place}.lora_B.weight": b, f"{place}.lora_A.weight": a}, a.shape[0])
    if kind in save_whole and part == "weight":
        own = vector.checkpoints[base].tensor(vector.parts[out.name].names[base])
        return _Found(squares, 0.0, {f"base_model.model.{out.name}": (own.float() + difference).to(own.dtype)})
    return _Found(squares, squares, {})


def _transposed(vector: Merge, base: str) -> bool:
    return vector.checkpoints[base].config.get("model_type") in _TRANSPOSED


def _report(vector: Merge, found: Mapping[str, _Found], rank: int, energy: float | None) -> dict[str, Any]:
    total = sum(entry.squares for entry in found.values())
    kinds: dict[str, list[float]] = defaultdict(lambda: [0.0, 0.0])
    left_out: dict[str, float] = defaultdict(float)
    saved: dict[str, float] = defaultdict(float)
    for name, entry in found.items():
        module, _, part = name.rpartition(".")
        short = module.rpartition(".")[2] + (f".{part}" if part != "weight" else "")
        if entry.rank:
            kinds[short][0] += entry.squares
            kinds[short][1] += entry.lost
        else:
            (saved if entry.tensors else left_out)[short] += entry.squares / total
    ranks = sorted({entry.rank for entry in found.values() if entry.rank})
    return {
        "expression": vector.combination.text,
        "models": {name: str(model.folder) for name, model in vector.checkpoints.items()},
        "rank": rank,
        "energy": energy,
        "ranks": str(ranks[0]) if len(ranks) == 1 else f"{ranks[0]} to {ranks[-1]}",
        "matrices": sum(1 for entry in found.values() if entry.rank),
        "error": (sum(entry.lost for entry in found.values()) / total) ** 0.5,
        "kinds": {k: {"energy": a / total, "error": (lost / a) ** 0.5} for k, (a, lost) in sorted(kinds.items())},
        "left_out": dict(sorted(left_out.items())),
        "saved_whole": dict(sorted(saved.items())),
    }


def _config(vector: Merge, base: str, found: Mapping[str, _Found], rank: int) -> dict[str, Any]:
    """peft's settings: alpha is the rank, so the scale is 1 for each matrix."""
    ranks = {name.rpartition(".")[0]: entry.rank for name, entry in found.items() if entry.rank}
    other = {module: count for module, count in ranks.items() if count != rank}
    whole = sorted(name.rpartition(".")[0] for name, entry in found.items() if entry.tensors and not entry.rank)
    return {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": str(vector.checkpoints[base].folder),
        "inference_mode": True,
        "r": rank,
        "lora_alpha": rank,
        "lora_dropout": 0.0,
        "bias": "none",
        "target_modules": _targets(vector, set(ranks)),
        "rank_pattern": other,
        "alpha_pattern": other,
        "modules_to_save": whole or None,
        "fan_in_fan_out": _transposed(vector, base),
        "use_rslora": False,
        "use_dora": False,
    }


def _targets(vector: Merge, modules: set[str]) -> list[str]:
    """Short names (`q_proj`) where every module of the name has an update, else whole ones."""
    every = {name.rpartition(".")[0] for name in vector.parts}
    whole_kinds = {module.rpartition(".")[2] for module in every - modules}
    return sorted({m if m.rpartition(".")[2] in whole_kinds else m.rpartition(".")[2] for m in modules})


def _write(
    output: Path, config: Mapping[str, Any], tensors: dict[str, torch.Tensor], report: Mapping[str, Any]
) -> None:
    """The folder, which appears whole or not at all."""
    from safetensors.torch import save_file

    place = output.with_name(f".{output.name}.partial")
    shutil.rmtree(place, ignore_errors=True)
    try:
        place.mkdir(parents=True)
        save_file(tensors, place / WEIGHTS, metadata={"format": "pt"})
        for name, content in ((CONFIG, config), (RECORD, report)):
            (place / name).write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
        if output.exists():
            output.rmdir()
        os.replace(place, output)
    except OSError as error:
        shutil.rmtree(place, ignore_errors=True)
        raise MergeError(f"cannot write '{output}': {error.strerror or error}") from error
