"""The signal-to-noise ratio of a weight from its singular values and the Marchenko-Pastur law."""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections import defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path

import torch

from adapt.errors import AdaptError
from adapt.methods.selection.draw import nearest
from adapt.methods.selection.units import Unit
from adapt.training.rules import fingerprint

NORMAL_IQR = 1.349
"""The distance of the quartiles of a normal distribution, in standard deviations."""


def threshold(values: torch.Tensor, shape: tuple[int, int]) -> float:
    """Up to which singular value there is only noise: `s (1 + sqrt(b))`.

    `s` is the deviation of the singular values, from the distance of their quartiles, `b` the short side of the matrix
    over its long side: the edge of the Marchenko-Pastur law, as Hartford et al. 2024 take it.
    """
    quartiles = torch.quantile(values, torch.tensor([0.25, 0.75], dtype=values.dtype))
    deviation = float(quartiles[1] - quartiles[0]) / NORMAL_IQR
    return deviation * (1 + math.sqrt(min(shape) / max(shape)))


def signal_to_noise(weight: torch.Tensor) -> float:
    """`(sum of sigma above the threshold / sum of sigma below it) / largest sigma`, of a matrix `[out, in]`.

    Of a tensor `[experts, out, in]` it is the mean over the experts. A matrix without noise has infinite signal.
    """
    if weight.dim() > 2:
        return sum(signal_to_noise(part) for part in weight) / len(weight)
    values = torch.linalg.svdvals(weight.detach().float())
    noise = values <= threshold(values.cpu(), tuple(weight.shape))
    below = float(values[noise].sum())
    return float(values[~noise].sum()) / below / float(values.max()) if below else math.inf


def cache_file() -> Path:
    """Where ratios are kept, under digests of the weights that they belong to."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "adapt" / "signal_to_noise.json"


def _known(file: Path) -> dict[str, float]:
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}


def cache_key(weight: torch.Tensor) -> str:
    """A digest of a weight's values and shape."""
    return hashlib.blake2b(f"{fingerprint(weight)} {tuple(weight.shape)}".encode(), digest_size=16).hexdigest()


def ratios(units: Iterable[Unit], weights: Mapping[str, torch.Tensor]) -> dict[str, float]:
    """The ratio of each unit's matrix, by the unit's name; computed where the cache has none."""
    file = cache_file()
    known, found = _known(file), {}
    before = len(known)
    for unit in units:
        weight = max((weights[name] for name in unit.parameters), key=lambda tensor: tensor.dim())
        key = cache_key(weight)
        found[unit.name] = known[key] = known[key] if key in known else signal_to_noise(weight)
    if len(known) > before:
        _keep(file, known)
    return found


def _keep(file: Path, known: Mapping[str, float]) -> None:
    """Write the cache whole or not at all."""
    partial = file.with_name(f".{file.name}.{os.getpid()}")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        partial.write_text(json.dumps(known), encoding="utf-8")
        partial.replace(file)
    except OSError as error:
        raise AdaptError(
            f"cannot write '{file}': {error.strerror or error}; set XDG_CACHE_HOME to another folder"
        ) from error


def _ratios_or_none(units: list[Unit], weights: Mapping[str, torch.Tensor]) -> dict[str, float]:
    """The ratios; of weights without values 0, which tells at least how many are kept."""
    if any(weight.is_meta for weight in weights.values()):
        return dict.fromkeys((unit.name for unit in units), 0.0)
    return ratios(units, weights)


def most_signal(units: Iterable[Unit], weights: Mapping[str, torch.Tensor], share: float) -> list[Unit]:
    """Of each kind of matrix in the blocks, the share of the layers with the highest ratio, one at least."""
    matrices = [unit for unit in units if unit.layer is not None and unit.category not in ("norm", "bias")]
    matrices = [unit for unit in matrices if max(weights[name].dim() for name in unit.parameters) >= 2]
    ratio, kinds = _ratios_or_none(matrices, weights), defaultdict(list)
    for unit in matrices:
        kinds[unit.stack, unit.kind].append(unit)
    kept: list[Unit] = []
    for members in kinds.values():
        ordered = sorted(members, key=lambda unit: (-ratio[unit.name], unit.layer))
        kept += ordered[: max(1, nearest(share * len(members)))]
    return kept
