"""Adapters that join a mixture or leave it."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import Any

from adapt.errors import AdaptError
from adapt.mixture.adapters import read_part
from adapt.mixture.assembly import rebuilt
from adapt.mixture.domain_folder import read_domain_adapter
from adapt.mixture.domains import exchanged
from adapt.mixture.mixture import Mixture, mixture_in


def add_adapter(model: Any, name: str, folder: str | Path, tokenizer: Any = None) -> None:
    """Let one more adapter join a model's mixture, in place; it has no weight, so outputs stay as they were.

    It takes part from `open_adapter` on, or when the gates are trained. Raises AdaptError for a name that is taken, or
    an adapter that does not fit.
    """
    mixture = mixture_in(model)
    if name in mixture.names:
        raise AdaptError(f"the mixture has an adapter '{name}' already; choose another name, or prune it first")
    if not name or "/" in name or name.startswith("."):
        raise AdaptError(f"'{name}' is not usable as an adapter's name; use letters, digits, '_' and '-'")
    if isinstance(mixture, Mixture):
        part = read_part(name, folder, model, mixture.base, tokenizer)
        rebuilt(model, mixture.parts | {name: part}, mixture.closed | {name})
    else:
        adapters = {**mixture.adapters, name: read_domain_adapter(folder)}
        exchanged(model, adapters, mixture.closed | {name}, tokenizer)


def open_adapter(model: Any, name: str) -> None:
    """Let the gates give weight to an adapter that had none so far, in place."""
    mixture = mixture_in(model)
    _check_name(mixture.names, name)
    _exchange(model, mixture.names, mixture.closed - {name})


def prune_adapter(model: Any, name: str) -> None:
    """Take an adapter out of a model's mixture, in place; the gates' scores of the others stay as they were."""
    mixture = mixture_in(model)
    _check_name(mixture.names, name)
    if len(mixture.names) == 1:
        raise AdaptError(f"'{name}' is the mixture's only adapter; without it there is the base alone")
    _exchange(model, [other for other in mixture.names if other != name], mixture.closed - {name})


def _exchange(model: Any, names: Collection[str], closed: Collection[str]) -> None:
    """Leave these adapters in a mixture, of LoRA or of domain adapters."""
    mixture = mixture_in(model)
    if isinstance(mixture, Mixture):
        rebuilt(model, {name: mixture.parts[name] for name in names}, closed)
    else:
        exchanged(model, {name: mixture.adapters[name] for name in names}, closed)


def _check_name(names: Collection[str], name: str) -> None:
    if name not in names:
        raise AdaptError(f"the mixture has no adapter '{name}'; it has {', '.join(names)}")
