"""Keys of a mixture that do not go together, with each other or with the stage's sources."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from adapt.methods.mixture_of_lora import MixtureOfLora


def conflicts_of(method: MixtureOfLora) -> Iterator[tuple[str, str]]:
    """Pairs of a key and what is wrong with it; those of a mixture that trains further when it is there."""
    if method.from_mixture is None:
        yield from whole_conflicts(method)
        return
    for key in sorted({"router", "gate"} & method.model_fields_set):
        yield key, f"the {key} of '{method.from_mixture}' is taken over; leave {key} out"


def whole_conflicts(method: MixtureOfLora) -> Iterator[tuple[str, str]]:
    """Pairs of a key and what is wrong with it, of a method that names all its adapters."""
    names, router = method.names, method.router
    if not names:
        yield "adapters", "a mixture needs adapters; name some, or set new"
        return
    for name in names:
        if names.count(name) > 1:
            yield "adapters", f"'{name}' is also the name of a new adapter; choose another"
    for message in router.conflicts(names):
        yield "router", message
    if method.gate != "projection" and not router.shareable:
        yield "gate", f"router '{router.kind}' has a gate of its own in each layer; set gate to projection"
    if method.train_embeddings != "frozen":
        yield "train_embeddings", "all adapters of a mixture have one vocabulary; train rows in a stage before it"
    for source, name in method.domains.items():
        if name not in names:
            yield "domains", f"'{source}' is for the adapter '{name}', but there are only {', '.join(names)}"
    yield from _training(method)


def _training(method: MixtureOfLora) -> Iterator[tuple[str, str]]:
    router, joint = method.router, method.train == "joint"
    if method.new and not joint:
        yield "train", "new adapters begin at zero, and gates alone do not change that; set train to joint"
    if not joint and not router.learns:
        yield "router", f"'{router.kind}' has nothing that trains, and the adapters are frozen; set train to joint"
    if joint and router.kind == "arrow":
        yield "router", "'arrow' follows what adapters have learned already; train them apart, or take another router"
    if router.learns and len(method.names) == 1:
        yield "router", f"'{router.kind}' has one adapter to choose from, so there is nothing to learn; name more"
    if method.train == "supervised":
        if method.balance:
            yield "balance", "a gate that is told the right adapter cannot also use all alike; take one of the two out"
        if router.kind == "nearest_key":
            yield "train", "keys are learned with one adapter at a time; set train to gates"


def unfit_of(method: MixtureOfLora, sources: Collection[str], objective: str) -> Iterator[tuple[str, str]]:
    """Pairs of a key and what of it does not fit the stage's sources or objective."""
    if objective not in ("causal_lm", "sft"):
        yield "kind", f"'{method.kind}' trains on packed text, not on pairs; set objective to causal_lm or sft"
    for source in method.domains:
        if source not in sources:
            near = difflib.get_close_matches(source, sources, n=1)
            hint = f"; did you mean '{near[0]}'?" if near else f"; it has {', '.join(sources)}"
            yield "domains", f"'{source}' is no source of this stage's mixture{hint}"
    if getattr(method, "from_mixture", None) is not None:
        return  # which adapters there are is known when the mixture is there
    without = [source for source in sources if source not in method.places]
    by_key = method.router.kind == "nearest_key"
    if method.router.kind == "enforced" and method.router.default is None and without:
        message = f"'enforced' needs the domain of every token, and source '{without[0]}' is for no adapter"
        yield "router", f"{message}; name one with domains, or set default"
    if (method.train == "supervised" or by_key) and len(without) == len(sources):
        yield "domains", f"no source is for any of the adapters {', '.join(method.names)}; say which is for which"
