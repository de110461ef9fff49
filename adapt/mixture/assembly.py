"""A model and adapters into a mixture, and out again: layers put in their places, gates over them."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import nn

from adapt.errors import AdaptError
from adapt.mixture.adapters import Part, linear_layers, read_factors, read_part
from adapt.mixture.bases import Base
from adapt.mixture.gating.scored import Site, SiteRouter
from adapt.mixture.gating.shared import GateBefore, SharedRouter
from adapt.mixture.layer import MixtureLinear
from adapt.mixture.mixture import PLACE, Mixture, Quantised, Sharing, factors_of, layers_of, routers_of, sites
from adapt.mixture.routers import RouterChoice
from adapt.mixture.routers.base import Router
from adapt.mixture.routers.token import Token
from adapt.mixture.routing import Routing
from adapt.mixture.stack import Factors, Stack

_BLOCK = re.compile(r"(?P<block>.*?\.\d+)\..+")


def mixture_of(
    model: Any,
    adapters: Mapping[str, str | Path | Part],
    router: RouterChoice | None = None,
    *,
    base: Base,
    gate: Sharing = "projection",
    tokenizer: Any = None,
    domains: Mapping[str, str] | None = None,
    trainable: bool = False,
    closed: Collection[str] = (),
    quantised: Quantised | None = None,
) -> Any:
    """Put adapters beside a model's layers, with gates over them, in place; returns the model.

    `adapters` are peft folders (of any ranks and targets) or new ones (`adapt.mixture.adapters.fresh_part`) by name.
    `gate`: one for each adapted layer (`projection`), for each block, or for the whole model. With `trainable` the
    adapters train. Those in `closed` have no weight. Raises AdaptError where an adapter does not fit the model, or the
    router does not fit the adapters.
    """
    router = Token() if router is None else router
    found = {
        name: given if isinstance(given, Part) else read_part(name, given, model, base, tokenizer)
        for name, given in adapters.items()
    }
    mixture = Mixture(found, router, gate, base, Routing(), quantised, dict(domains or {}), frozenset(closed))
    check(mixture)
    put_in(model, mixture, mixture.names if trainable else ())
    mixture.routing.marks = marks_of(mixture, tokenizer)
    mixture.routing.watch_model(model)
    return model


def check(mixture: Mixture) -> None:
    """Raise AdaptError where adapters, router and domains do not go together."""
    if not mixture.parts:
        raise AdaptError("a mixture needs at least one adapter")
    if mixture.closed >= set(mixture.parts):
        raise AdaptError("every adapter of the mixture is closed, so none could weigh anything; open one")
    for message in mixture.router.conflicts(mixture.names):
        raise AdaptError(f"router '{mixture.router.kind}': {message}")
    if mixture.gate != "projection" and not mixture.router.shareable:
        raise AdaptError(f"router '{mixture.router.kind}' has a gate of its own in each layer; set gate to projection")
    for domain, name in mixture.domains.items():
        if name not in mixture.parts:
            names = ", ".join(mixture.names)
            raise AdaptError(f"domains: '{domain}' means the adapter '{name}', but there is none; there are {names}")


def put_in(model: Any, mixture: Mixture, trainable: Collection[str] = ()) -> None:
    """Build layers and gates into a model that has none; the adapters in `trainable` train."""
    sizes = linear_layers(model)
    model.requires_grad_(False)
    modules = list(sites(mixture, sizes))
    shared = _shared_gates(model, mixture, modules)
    for module in modules:
        base = model.get_submodule(module)
        factors = {name: part.factors.get(module) for name, part in mixture.parts.items()}
        site = Site(module, sizes[module][0], mixture.names, factors, mixture.closed)
        place = _place(mixture.gate, module, modules)
        gate = SharedRouter(place, len(mixture.names)) if place in shared else mixture.router.build(site)
        stack = _stack(model, base, factors, sizes[module], trainable)
        layer = MixtureLinear(base, stack, _placed(gate, base), mixture.routing)
        model.set_submodule(module, layer.train(model.training))
    mixture.parts = {name: replace(part, factors={}) for name, part in mixture.parts.items()}
    mixture.routing.known = mixture.known()
    mixture.routing.strict = getattr(mixture.router, "default", "") is None
    setattr(model, PLACE, mixture)


def _stack(
    model: Any,
    base: nn.Module,
    factors: Mapping[str, Factors | None],
    size: tuple[int, int],
    trainable: Collection[str],
) -> Stack:
    """The stacked factors on the base's device: in float32 where they train, else as the model computes."""
    stack = Stack(factors, size, trainable)
    stack = stack.to(next(base.parameters()).device)
    return stack if trainable else stack.to(model.dtype)


def _placed(router: Router, base: nn.Module) -> Router:
    return router.to(next(base.parameters()).device)


def _place(gate: Sharing, module: str, modules: Sequence[str]) -> str:
    """Where the gate of a layer stands: the layer itself, its block, or the first block."""
    of = module if gate == "layer" else modules[0]
    match = _BLOCK.fullmatch(of)
    if gate == "projection":
        return module
    if match is None:
        raise AdaptError(f"'{of}' lies in no numbered block, so no gate can be shared there; set gate to projection")
    return match["block"]


def _shared_gates(model: Any, mixture: Mixture, modules: Sequence[str]) -> dict[str, Router]:
    """Gates that several layers share, as submodules of the blocks before which they are computed."""
    if mixture.gate == "projection":
        return {}
    gates: dict[str, Router] = {}
    width = model.config.get_text_config().hidden_size
    for place in dict.fromkeys(_place(mixture.gate, module, modules) for module in modules):
        block = model.get_submodule(place)
        gates[place] = mixture.router.build(Site(place, width, mixture.names, None, mixture.closed))
        block.mixture_gate = _placed(gates[place], block)
        hook = GateBefore(gates[place], place, mixture.routing)
        mixture.hooks.append(block.register_forward_pre_hook(hook, with_kwargs=True))
    return gates


def marks_of(mixture: Mixture, tokenizer: Any) -> dict[int, int]:
    """Token ids that name a domain. Raises AdaptError for one that is no single token of the vocabulary."""
    named = mixture.router.marks(mixture.known())
    vocabulary = tokenizer.get_vocab() if named and tokenizer is not None else {}
    for token in named:
        if token not in vocabulary:
            raise AdaptError(f"router.tokens: '{token}' is no token of the vocabulary; add it, or take it out")
    return {vocabulary[token]: place for token, place in named.items()}


def take_out(model: Any) -> None:
    """Give a model its plain layers back."""
    mixture: Mixture = getattr(model, PLACE)
    for hook in mixture.hooks:
        hook.remove()
    mixture.hooks = []
    for module in list(model.modules()):
        if hasattr(module, "mixture_gate"):
            del module.mixture_gate
    for name, layer in layers_of(model).items():
        model.set_submodule(name, layer.base)


def rebuilt(
    model: Any, parts: Mapping[str, Part], closed: Collection[str], trainable: Collection[str] | None = None
) -> None:
    """Exchange a mixture's adapters, in place; what its gates learned of those that stay is kept.

    `parts` are those that are to be there, the present ones as the mixture has them. Those in `trainable` train; None:
    those that did.
    """
    mixture: Mixture = getattr(model, PLACE)
    before, routers = mixture.names, routers_of(model)
    if trainable is None:
        trainable = {name for layer in layers_of(model).values() for name in layer.stack.trainable} & parts.keys()
    domains = {domain: name for domain, name in mixture.domains.items() if name in parts}
    found = {name: part if part.factors else _as_it_stands(model, name, part) for name, part in parts.items()}
    changed = replace(mixture, parts=found, domains=domains, closed=frozenset(closed), hooks=[])
    check(changed)
    take_out(model)
    put_in(model, changed, trainable)
    take_over(model, routers, before)


def take_over(model: Any, routers: Mapping[str, SiteRouter], before: Sequence[str]) -> None:
    """Let a model's new gates have what the gates `routers` learned over the adapters `before`; else their zeros."""
    names = getattr(model, PLACE).names
    places = [before.index(name) if name in before else None for name in names]
    for path, router in routers_of(model).items():
        old = routers.get(path)
        router.take(router if old is None else old, [None] * len(places) if old is None else places)


def _as_it_stands(model: Any, name: str, part: Part) -> Part:
    """A part with its factors: from its folder if it has one, else from the layers."""
    factors = factors_of(model, name) if part.folder is None else read_factors(name, part.folder, model)
    return replace(part, factors=factors)
