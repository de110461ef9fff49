"""A model with a method on it, for a training loop of one's own."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError

from adapt.checkpoints import ModelLocation, load_config, load_tokenizer
from adapt.errors import AdaptError
from adapt.methods import METHODS, Method
from adapt.training.precision import PrecisionChoice


def load_for_training(
    model: str, method: str | Mapping[str, Any] = "lora", precision: PrecisionChoice = "auto"
) -> tuple[Any, Any]:
    """A model as a train stage has it before its first step, and its tokenizer.

    model, tokenizer = adapt.load_for_training("examples/models/tiny-en", {"kind": "lora", "r": 16})
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad])

    `model` is a folder or a hub id; `method` is what stands under `method:` in a recipe. `requires_grad` is set on
    exactly what trains. What a stage does along with its steps is not here: rows of special tokens that are held still,
    draws anew, restarts, averages, and starts that are taken from data. Raises AdaptError for a method that is none.
    """
    from adapt.training import precision as formats

    chosen, location = _method(method), ModelLocation(model)
    config = load_config(location).get_text_config()
    choice = formats.choose(precision, config.hidden_size)
    tokenizer = load_tokenizer(location)
    attention = formats.attention("auto", choice, config)
    loaded = chosen.build(location, choice, lambda: iter(()), attn_implementation=attention)
    chosen.rows(loaded, "none", location, tokenizer)
    return loaded.to(choice.device), tokenizer


def _method(given: str | Mapping[str, Any]) -> Method:
    settings = {"kind": given} if isinstance(given, str) else dict(given)
    kinds = {method.model_fields["kind"].default: method for method in METHODS}
    if settings.get("kind") not in kinds:
        raise AdaptError(f"the method's kind is {settings.get('kind')!r}; give one of {', '.join(kinds)}")
    kind = settings["kind"]
    try:
        method = kinds[kind].model_validate(settings)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"]))
        raise AdaptError(f"method {kind}: {place} is {first['input']!r}: {first['msg']}") from None
    for field, message in method.conflicts():
        raise AdaptError(f"method {kind}: {field}: {message}")
    return method
