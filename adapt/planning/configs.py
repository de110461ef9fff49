"""A model's configuration without the model: of a folder, of what the hub's cache holds, or of a table.

The table, `shapes.json`, has the published shapes of well-known models by their hub id, so that a plan needs no
network. An id that differs by its case or by an ending for another tuning (`-Instruct`) has the same shape.
"""

from __future__ import annotations

import json
import re
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from adapt.checkpoints import ModelLocation, load_config
from adapt.errors import AdaptError

if TYPE_CHECKING:
    from transformers import PretrainedConfig

TABLE = Path(__file__).with_name("shapes.json")
_TUNING = re.compile(r"-(instruct|it|pt|base|chat|hf|v0\.[123]|\d{4})(?=-|$)")


@cache
def shapes() -> dict[str, dict[str, Any]]:
    """The table: configurations by hub id."""
    return json.loads(TABLE.read_text(encoding="utf-8"))


def known_shape(name: str) -> dict[str, Any] | None:
    """The table's entry for a hub id: the same id, else one that differs by case and tuning only; None without."""
    table = shapes()
    if name in table:
        return table[name]
    found = [shape for known, shape in table.items() if _stem(known) == _stem(name)]
    return found[0] if found and all(shape == found[0] for shape in found) else None


def _stem(name: str) -> str:
    return _TUNING.sub("", name.lower())


def config_of(location: ModelLocation) -> PretrainedConfig:
    """The configuration of a model, of its text part where it has others. Nothing is asked of the network.

    Raises AdaptError for a hub id that is neither in the local cache nor in the table.
    """
    from huggingface_hub import try_to_load_from_cache
    from transformers import AutoConfig

    cached = (
        None if location.folder else try_to_load_from_cache(location.path, "config.json", revision=location.revision)
    )
    if location.folder is not None:
        return load_config(location).get_text_config()
    if isinstance(cached, str):
        folder = ModelLocation(str(Path(cached).parent), trust_remote_code=location.trust_remote_code)
        return load_config(folder).get_text_config()
    shape = known_shape(location.path)
    if shape is None:
        raise AdaptError(
            f"the shape of model '{location.path}' is not known here: it is no folder, its config.json is not in the "
            f"hub's cache, and the planner's table does not have it; fetch it with: "
            f"hf download {location.path} config.json"
        )
    values = dict(shape)
    return AutoConfig.for_model(values.pop("model_type"), dtype="bfloat16", **values)


def empty_model(config: PretrainedConfig) -> Any:
    """The causal language model of a configuration on the meta device, in its stored format."""
    import torch
    from transformers import AutoModelForCausalLM

    dtype = config.dtype if isinstance(config.dtype, torch.dtype) else torch.float32
    with torch.device("meta"):
        return AutoModelForCausalLM.from_config(config, dtype=dtype)
