"""A model with one domain adapter beside its feed-forward layers, from the adapter's folder."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from adapt.checkpoints import ModelLocation, load_model, load_tokenizer
from adapt.methods.adapter import ROWS_FILE, grow_for_adapter
from adapt.mixture.bases import Base
from adapt.mixture.bottleneck import Form, ParallelFeedForward
from adapt.mixture.domain_folder import check_base, check_fits, read_domain_adapter
from adapt.mixture.feed_forward import feed_forwards
from adapt.mixture.insertion import units_beside
from adapt.mixture.routing import Routing

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedTokenizerBase

_NAME = "domain"


def load_domain_adapter(
    folder: str | Path, base: str | Path | None = None, dtype: torch.dtype | str = "auto", **arguments: Any
) -> tuple[Any, PreTrainedTokenizerBase]:
    """The model and its tokenizer, in evaluation mode; `base`, `dtype` and arguments as for `adapt.load_adapter`.

    Raises AdaptError where base and adapter do not belong together.
    """
    folder = Path(folder)
    adapter = read_domain_adapter(folder)
    location = ModelLocation(adapter.base.path, adapter.base.revision) if base is None else ModelLocation(str(base))
    check_base(_NAME, adapter, Base.of(location))
    carries = (folder / ROWS_FILE).exists()
    tokenizer = load_tokenizer(ModelLocation(str(folder)) if carries else location)
    model = grow_for_adapter(load_model(location, "auto", **arguments), folder)
    model = model if dtype == "auto" else model.to(dtype)
    for layer in feed_forwards(model):
        if layer.name in adapter.layers:
            units = units_beside(model, layer, {_NAME: adapter.width}, adapter.activation)
            check_fits(_NAME, adapter, Form.of(adapter.activation, layer), layer.name, units.up.shape[0])
            units.put(_NAME, adapter.layers[layer.name])
            model.set_submodule(layer.name, ParallelFeedForward(layer.module, Routing(), units))
    return model.eval(), tokenizer
