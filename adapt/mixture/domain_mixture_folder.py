"""A mixture of domain adapters as one folder, and back into a model.

mixture.json              of kind `bottleneck`: base, adapters in their order, router
gates.safetensors         what the gates learned, `<layer>.<tensor>`; none where they learn nothing
adapters/<name>/, task/   bottleneck.safetensors and bottleneck_config.json of the domains and of the task
tokenizer.json and kin    the tokenizer of the base
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from adapt.checkpoints import ModelLocation, load_tokenizer
from adapt.errors import AdaptError
from adapt.mixture.folder import (
    ADAPTERS,
    FORMAT,
    MIXTURE_FILE,
    check_digest,
    load_gates,
    router_of,
    save_gates,
    stored_base,
)

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedTokenizerBase

    from adapt.mixture.domains import DomainMixture


def save_domain_mixture(model: Any, tokenizer: PreTrainedTokenizerBase, folder: Path) -> None:
    """Write a model's mixture of domain adapters."""
    from adapt.mixture.bottleneck import parallel_layers
    from adapt.mixture.domain_folder import write_domain_adapter
    from adapt.mixture.domains import TASK
    from adapt.mixture.mixture import mixture_in

    mixture: DomainMixture = mixture_in(model)
    layers = parallel_layers(model)
    for name, adapter in mixture.adapters.items():
        units = {layer: layers[layer].domains for layer in adapter.layers}
        write_domain_adapter(folder / ADAPTERS / name, units, name, mixture.base)
    if mixture.task is not None:
        units = {name: layer.task for name, layer in layers.items()}
        write_domain_adapter(folder / TASK, units, TASK, mixture.base)
    save_gates(model, folder)
    tokenizer.save_pretrained(folder)
    text = json.dumps(_described(mixture), ensure_ascii=False, indent=1)
    (folder / MIXTURE_FILE).write_text(text + "\n", encoding="utf-8")


def _described(mixture: DomainMixture) -> dict[str, Any]:
    return {
        "format": FORMAT,
        "kind": "bottleneck",
        "base": mixture.base.asdict(),
        "adapters": list(mixture.names),
        "router": mixture.router.model_dump(mode="json"),
        "gate": "projection",
        "task": mixture.task,
        "quantised": mixture.quantised,
        "domains": dict(mixture.domains),
        "closed": sorted(mixture.closed),
    }


def load_domain_mixture(
    folder: Path, found: Mapping[str, Any], base: str | Path | None, dtype: torch.dtype | str, **arguments: Any
) -> tuple[Any, PreTrainedTokenizerBase]:
    """A model with the mixture that `found` describes, and its tokenizer; as `adapt.load_mixture`."""
    from adapt.mixture.bases import Base
    from adapt.mixture.domain_folder import read_domain_adapter
    from adapt.mixture.domains import TASK, DomainMixture, mix_domains

    location = ModelLocation(found["base"]["path"], found["base"]["revision"])
    location = location if base is None else ModelLocation(str(base))
    own = Base.of(location)
    check_digest(folder, found["base"], own)
    mixture = DomainMixture(
        adapters={name: read_domain_adapter(folder / ADAPTERS / name) for name in found["adapters"]},
        router=router_of(folder, found["router"]),
        base=own,
        task=found.get("task"),
        quantised=found.get("quantised"),
        domains=found.get("domains", {}),
        closed=frozenset(found.get("closed", ())),
    )
    tokenizer = load_tokenizer(ModelLocation(str(folder)))
    model = mix_domains(stored_base(location, mixture.quantised, dtype, **arguments), mixture, tokenizer)
    if mixture.task is not None:
        _put_task(model, mixture.task, folder / TASK)
    load_gates(model, folder)
    return model.eval(), tokenizer


def _put_task(model: Any, width: int, folder: Path) -> None:
    """Put the task adapter's values in. Raises AdaptError where they are not those of this mixture."""
    from adapt.mixture.bottleneck import parallel_layers
    from adapt.mixture.domain_folder import check_fits, read_domain_adapter
    from adapt.mixture.domains import TASK

    given = read_domain_adapter(folder)
    layers = {name: layer.task for name, layer in parallel_layers(model).items()}
    for name in sorted(layers.keys() ^ given.layers.keys()):
        what = "lacks" if name in layers else "has, beyond this model's layers,"
        raise AdaptError(f"the task adapter in '{folder}' {what} '{name}'; the mixture's files do not belong together")
    form = next(iter(layers.values())).form
    if (given.width, given.activation) != (width, form.activation):
        raise AdaptError(
            f"the task adapter in '{folder}' has {given.width} units with activation '{given.activation}', and the "
            f"mixture's has {width} with '{form.activation}'; the mixture's files do not belong together"
        )
    for name, units in layers.items():
        check_fits(TASK, given, units.form, name, units.up.shape[0])
        units.put(TASK, given.layers[name])
