"""A domain adapter on the disk: `bottleneck.safetensors` and `bottleneck_config.json`.

Tensors are named `<feed-forward layer's path>.<down|gate|bias|up>`. The configuration names the base that the adapter
was trained over and digests its blocks, so that an adapter is not put beside weights that it does not fit.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch

from adapt.checkpoints import read_json
from adapt.errors import AdaptError
from adapt.mixture.bases import Base
from adapt.mixture.bottleneck import FFN, PLAIN, Form, Units

WEIGHTS, CONFIG = "bottleneck.safetensors", "bottleneck_config.json"


@dataclass(frozen=True)
class DomainAdapter:
    """One adapter as it was read: tensors by layer and name, its width, its activation, and its base."""

    folder: Path
    width: int
    activation: str
    layers: Mapping[str, Mapping[str, torch.Tensor]]
    base: Base


def write_domain_adapter(folder: Path, units: Mapping[str, Units], name: str, base: Base) -> None:
    """Write one adapter of the layers `units`, under their paths in the plain model."""
    from safetensors.torch import save_file

    folder.mkdir(parents=True, exist_ok=True)
    tensors = {
        f"{layer}.{key}": tensor.float().cpu().contiguous()
        for layer, own in units.items()
        for key, tensor in own.tensors(name).items()
    }
    first = next(iter(units.values()))
    config = {
        "format": 1,
        "kind": "bottleneck",
        "width": first.widths[first.names.index(name)],
        "activation": first.form.activation,
        "layers": list(units),
        "base": base.asdict(),
    }
    save_file(tensors, folder / WEIGHTS, metadata={"format": "pt"})
    (folder / CONFIG).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


def read_domain_adapter(folder: str | Path) -> DomainAdapter:
    """Read one adapter. Raises AdaptError where the folder holds none, or one that is not whole."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    folder = Path(folder)
    if not (folder / CONFIG).exists():
        raise AdaptError(f"'{folder}' holds no domain adapter (no {CONFIG})")
    config = read_json(folder / CONFIG)
    if config.get("kind") != "bottleneck" or config.get("activation") not in (FFN, *PLAIN):
        raise AdaptError(f"'{folder / CONFIG}' describes no domain adapter: activation {config.get('activation')!r}")
    try:
        tensors = load_file(folder / WEIGHTS)
    except (OSError, SafetensorError) as error:
        raise AdaptError(f"cannot read '{folder / WEIGHTS}': {error}") from error
    layers: dict[str, dict[str, torch.Tensor]] = {layer: {} for layer in config["layers"]}
    for name, tensor in tensors.items():
        layer, _, key = name.rpartition(".")
        if layer not in layers:
            raise AdaptError(f"'{folder / WEIGHTS}' holds '{name}', which its {CONFIG} does not name")
        layers[layer][key] = tensor
    return DomainAdapter(folder, config["width"], config["activation"], layers, Base(**config["base"]))


def check_fits(name: str, adapter: DomainAdapter, form: Form, layer: str, hidden: int) -> None:
    """Raise AdaptError for an adapter that lacks tensors of a layer, or has them in another shape."""
    given, width, where = adapter.layers[layer], adapter.width, f"domain adapter '{name}' in '{adapter.folder}'"
    shapes = {"down": [width, hidden], "up": [hidden, width]}
    shapes |= {"gate": [width, hidden]} if form.gated else {}
    shapes |= {"bias": [width]} if form.bias else {}
    for key, shape in shapes.items():
        if key not in given:
            raise AdaptError(f"{where} lacks '{layer}.{key}'")
        if list(given[key].shape) != shape:
            raise AdaptError(f"{where} has '{layer}.{key}' of shape {list(given[key].shape)}, this base takes {shape}")
    if left := given.keys() - shapes.keys():
        raise AdaptError(f"{where} has '{layer}.{min(left)}', which nothing uses")


def check_base(name: str, adapter: DomainAdapter, base: Base) -> None:
    """Raise AdaptError for an adapter that was trained over another model."""
    if adapter.base.digest != base.digest:
        raise AdaptError(
            f"domain adapter '{name}' was trained over another base: the weights of '{adapter.base.path}' are not "
            f"those of '{base.path}'"
        )
