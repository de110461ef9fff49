"""The updates of a mixture with fixed gates, as peft folders: each adapter scaled, or all as one of lower rank."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from adapt.methods.low_rank.factors import Factors as Pair
from adapt.methods.low_rank.factors import add, truncate
from adapt.methods.low_rank.updates import Updates, from_factors, write_summed
from adapt.mixture.mixture import layers_of, mixture_in

Weights = Mapping[str, Mapping[str, float]]
"""For each layer the weight of each adapter."""
Factored = dict[str, Pair]
"""For each layer `B [out, r]` and `A [r, in]` of scale 1, on the CPU in float32."""


def scaled(model: Any, name: str, weights: Weights) -> Factored:
    """One adapter's updates, each times the adapter's weight at its layer."""
    found = {}
    for module, layer in layers_of(model).items():
        factors = layer.stack.factors(name)
        if factors is not None:
            b = factors.b.detach().float().cpu() * (factors.scale * weights[module][name])
            found[module] = b, factors.a.detach().float().cpu()
    return found


def whole_sum(model: Any, weights: Weights) -> Factored:
    """`sum_e m_e s_e B_e A_e` of every layer, exactly: factors side by side."""
    parts = [scaled(model, name, weights) for name in mixture_in(model).names]
    return {module: add([part[module] for part in parts if module in part]) for module in layers_of(model)}


def factored_sum(model: Any, weights: Weights, rank: int) -> tuple[Factored, float]:
    """The sum with at most `rank` singular values in each layer, and the share of its squared norm that is lost."""
    whole = whole_sum(model, weights)
    kept = {module: pair if pair[0].shape[1] <= rank else truncate(pair, rank) for module, pair in whole.items()}
    total, held = (sum(_squares(pair) for pair in part.values()) for part in (whole, kept))
    return kept, max(0.0, 1 - held / total) if total else 0.0


def _squares(pair: Pair) -> float:
    """`|B A|^2` without the product: the sum of `(B^T B) * (A A^T)`."""
    b, a = (factor.double() for factor in pair)
    return float(((b.T @ b) * (a @ a.T)).sum())


def scaled_adapters(model: Any, weights: Weights, base: Path, folder: Path) -> dict[str, Path]:
    """Every adapter, scaled, as a peft folder, under a name that an expression can hold."""
    names: Iterable[str] = mixture_in(model).names
    return {
        f"adapter_{index}": write_factored(model, scaled(model, name, weights), base, folder / str(index))
        for index, name in enumerate(names)
    }


def updates_of(model: Any, factored: Factored) -> Updates:
    """Factors of a mixture's layers in peft's names."""
    layers = layers_of(model)
    transposed = frozenset(module for module in factored if not hasattr(layers[module].base, "in_features"))
    given = {module: (b.contiguous(), a.contiguous()) for module, (b, a) in factored.items()}
    return from_factors(given, Updates({}, {}, transposed))


def write_factored(model: Any, factored: Factored, base: str | Path, folder: Path) -> Path:
    """Factors as a peft folder over a base."""
    write_updates(updates_of(model, factored), base, folder)
    return folder


def write_updates(updates: Updates, base: str | Path, folder: Path) -> None:
    """Updates from `updates_of` as a peft folder over a base."""
    from peft import LoraConfig

    transposed = bool(updates.transposed)
    config = LoraConfig(base_model_name_or_path=str(base), task_type="CAUSAL_LM", fan_in_fan_out=transposed)
    write_summed(updates, config, folder)
