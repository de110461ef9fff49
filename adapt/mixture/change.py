"""Adapters that join a mixture or leave it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from adapt.errors import AdaptError
from adapt.mixture.adapters import read_part
from adapt.mixture.assembly import rebuilt
from adapt.mixture.mixture import Mixture, mixture_in


def add_adapter(model: Any, name: str, folder: str | Path, tokenizer: Any = None) -> None:
    """Let one more adapter join a model's mixture, in place; it has no weight, so outputs stay as they were.

    It takes part from `open_adapter` on, or when the gates are trained. Raises AdaptError for a name that is taken, or
    an adapter that does not fit.
    """
    mixture = _of_lora(model)
    if name in mixture.parts:
        raise AdaptError(f"the mixture has an adapter '{name}' already; choose another name, or prune it first")
    if not name or "/" in name or name.startswith("."):
        raise AdaptError(f"'{name}' is not usable as an adapter's name; use letters, digits, '_' and '-'")
    part = read_part(name, folder, model, mixture.base, tokenizer)
    rebuilt(model, mixture.parts | {name: part}, mixture.closed | {name})


def open_adapter(model: Any, name: str) -> None:
    """Let the gates give weight to an adapter that had none so far, in place."""
    mixture = _of_lora(model)
    _check_name(mixture.parts, name)
    rebuilt(model, mixture.parts, mixture.closed - {name})


def prune_adapter(model: Any, name: str) -> None:
    """Take an adapter out of a model's mixture, in place; the gates' scores of the others stay as they were."""
    mixture = _of_lora(model)
    _check_name(mixture.parts, name)
    if len(mixture.parts) == 1:
        raise AdaptError(f"'{name}' is the mixture's only adapter; without it there is the base alone")
    rest = {other: part for other, part in mixture.parts.items() if other != name}
    rebuilt(model, rest, mixture.closed - {name})


def check_changeable(kind: str) -> None:
    """Raise AdaptError for a kind of mixture that adapters neither join nor leave."""
    if kind != "lora":
        raise AdaptError(
            "adapters join or leave mixtures of LoRA only, and this one has domain adapters; name those that it is to "
            "have in a train stage with method mixture_of_domain_adapters"
        )


def _of_lora(model: Any) -> Mixture:
    mixture = mixture_in(model)
    check_changeable("lora" if isinstance(mixture, Mixture) else "bottleneck")
    return mixture


def _check_name(parts: Any, name: str) -> None:
    if name not in parts:
        raise AdaptError(f"the mixture has no adapter '{name}'; it has {', '.join(parts)}")
