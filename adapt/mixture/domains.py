"""A mixture of domain adapters in a model: trained bottlenecks behind gates, and a task adapter that learns."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from adapt.errors import AdaptError
from adapt.mixture.assembly import marks_of, take_over
from adapt.mixture.bases import Base, check_vocabulary
from adapt.mixture.bottleneck import Form, ParallelFeedForward, Units, parallel_layers
from adapt.mixture.domain_folder import DomainAdapter, check_base, check_fits
from adapt.mixture.feed_forward import FeedForward, feed_forwards
from adapt.mixture.gating.scored import Site
from adapt.mixture.insertion import freeze, units_beside
from adapt.mixture.mixture import PLACE, Quantised, Sharing, routers_of
from adapt.mixture.routers import RouterChoice
from adapt.mixture.routers.base import Router
from adapt.mixture.routing import Routing
from adapt.mixture.stack import Factors

if TYPE_CHECKING:
    import torch

TASK = "task"


@dataclass
class DomainMixture:
    """What stands beside a model's feed-forward layers: the adapters in their order, and what weighs them.

    `task` is the width of the task adapter beside every layer, None for none. `domains` says which adapter stands for a
    domain of the data, besides those with the adapter's own name.
    """

    adapters: Mapping[str, DomainAdapter]
    router: RouterChoice
    base: Base
    task: int | None = None
    quantised: Quantised | None = None
    domains: Mapping[str, str] = field(default_factory=dict)
    routing: Routing = field(default_factory=Routing)
    gate: Sharing = "projection"
    closed: frozenset[str] = frozenset()
    """Adapters without weight."""
    averages: dict[str, Any] = field(default_factory=dict)
    """The mean gates over a run's own data, by the place of the gate."""

    @property
    def names(self) -> tuple[str, ...]:
        """The adapters in their order."""
        return tuple(self.adapters)

    @property
    def activation(self) -> str:
        """The activation that all adapters have. Raises AdaptError where they have different ones."""
        found = {adapter.activation: name for name, adapter in self.adapters.items()}
        if len(found) > 1:
            said = ", ".join(f"'{name}' has {activation}" for activation, name in found.items())
            raise AdaptError(f"the domain adapters have different activations ({said}); train them with one")
        return next(iter(found))

    def known(self) -> dict[str, int]:
        """The adapter of each domain, by its place."""
        places = {name: place for place, name in enumerate(self.names)}
        return places | {domain: places[name] for domain, name in self.domains.items() if name in places}


def mix_domains(model: Any, mixture: DomainMixture, tokenizer: Any = None) -> Any:
    """Put a mixture beside the layers of a plain model, in place; returns the model.

    Base and adapters do not train, gates and task adapter do; the task adapter is zero at first. Raises AdaptError
    where an adapter does not fit the model, or the router not the adapters.
    """
    _check(mixture)
    _check_vocabulary(mixture.adapters, model, tokenizer)
    freeze(model)
    _put_beside(model, mixture)
    routing = mixture.routing
    routing.strict = getattr(mixture.router, "default", "") is None
    routing.marks = marks_of(mixture, tokenizer)
    routing.watch_model(model)
    return model


def exchanged(
    model: Any, adapters: Mapping[str, DomainAdapter], closed: Collection[str], tokenizer: Any = None
) -> None:
    """Exchange the domain adapters of a model's mixture, in place; what gates and task adapter learned is kept.

    Raises AdaptError where an adapter does not fit; the model is then as it was.
    """
    mixture: DomainMixture = getattr(model, PLACE)
    before, routers = mixture.names, routers_of(model)
    domains = {domain: name for domain, name in mixture.domains.items() if name in adapters}
    changed = replace(mixture, adapters=dict(adapters), domains=domains, closed=frozenset(closed), averages={})
    _check(changed)
    _check_vocabulary({name: adapters[name] for name in adapters if name not in before}, model, tokenizer)
    _put_beside(model, changed)
    take_over(model, routers, before)


def _put_beside(model: Any, mixture: DomainMixture) -> None:
    """Put a mixture's units and gates beside the layers, in the place of what stood there; task adapters stay."""
    layers, present = feed_forwards(model), parallel_layers(model)
    _check_used(mixture, layers)
    made = {layer.name: _beside(model, mixture, layer, present.get(layer.name)) for layer in layers}
    for name, module in made.items():
        model.set_submodule(name, module)
    mixture.routing.known = mixture.known()
    setattr(model, PLACE, mixture)


def _beside(
    model: Any, mixture: DomainMixture, layer: FeedForward, present: ParallelFeedForward | None
) -> torch.nn.Module:
    """A layer with what stands beside it, or alone."""
    domains = _domains(model, mixture, layer)
    router = None if domains is None else _router(mixture, layer, domains)
    task = None if present is None else present.task
    if task is None and mixture.task is not None:
        task = units_beside(model, layer, {TASK: mixture.task}, mixture.activation)
    if domains is None and task is None:
        return layer.module
    return ParallelFeedForward(layer.module, mixture.routing, domains, router, task).train(model.training)


def _check(mixture: DomainMixture) -> None:
    if not mixture.adapters:
        raise AdaptError("a mixture needs at least one adapter")
    if mixture.closed >= set(mixture.adapters):
        raise AdaptError("every adapter of the mixture is closed, so none could weigh anything; open one")
    for message in mixture.router.conflicts(mixture.names):
        raise AdaptError(f"router '{mixture.router.kind}': {message}")
    for name, adapter in mixture.adapters.items():
        check_base(name, adapter, mixture.base)


def _check_vocabulary(adapters: Mapping[str, DomainAdapter], model: Any, tokenizer: Any) -> None:
    """Raise AdaptError for an adapter with a vocabulary or embedding rows of its own."""
    for name, adapter in adapters.items():
        check_vocabulary(name, adapter.folder, model, tokenizer)


def _check_used(mixture: DomainMixture, layers: tuple[FeedForward, ...]) -> None:
    known = {layer.name for layer in layers}
    for name, adapter in mixture.adapters.items():
        for layer in adapter.layers:
            if layer not in known:
                raise AdaptError(f"domain adapter '{name}' stands beside '{layer}', which this model does not have")


def _domains(model: Any, mixture: DomainMixture, layer: FeedForward) -> Units | None:
    """The adapters' units beside one layer; None where there are none."""
    used = {name: adapter for name, adapter in mixture.adapters.items() if layer.name in adapter.layers}
    if not used:
        return None
    widths = {name: adapter.width if name in used else 0 for name, adapter in mixture.adapters.items()}
    units = units_beside(model, layer, widths, mixture.activation)
    for name, adapter in used.items():
        check_fits(name, adapter, Form.of(mixture.activation, layer), layer.name, units.up.shape[0])
        units.put(name, adapter.layers[layer.name])
    return units.requires_grad_(False)


def _router(mixture: DomainMixture, layer: FeedForward, units: Units) -> Router:
    site = Site(layer.name, units.up.shape[0], mixture.names, _factors(units), mixture.closed)
    return mixture.router.build(site).to(layer.device)


def _factors(units: Units) -> dict[str, Factors | None]:
    """What each adapter reads and writes, for gates that look at that; None where it has no units."""
    found: dict[str, Factors | None] = dict.fromkeys(units.names)
    for name, width in zip(units.names, units.widths, strict=True):
        if width:
            tensors = units.tensors(name)
            found[name] = Factors(tensors["down"], tensors["up"], 1.0)
    return found
