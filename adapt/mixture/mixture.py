"""A mixture in a model: what it consists of, and the model's layers that hold it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from torch import nn

from adapt.errors import AdaptError
from adapt.mixture.adapters import Part
from adapt.mixture.bases import Base
from adapt.mixture.gating.scored import SiteRouter
from adapt.mixture.layer import MixtureLinear
from adapt.mixture.routers import RouterChoice
from adapt.mixture.routing import Routing
from adapt.mixture.stack import Factors

Sharing = Literal["projection", "layer", "model"]
Quantised = Literal["nf4"]
PLACE = "adapt_mixture"


@dataclass
class Mixture:
    """What stands beside a model's layers. `parts` are the adapters in their order, `closed` those without weight.

    `domains` says which adapter stands for a domain of the data, besides those with the adapter's own name.
    """

    parts: dict[str, Part]
    router: RouterChoice
    gate: Sharing
    base: Base
    routing: Routing
    quantised: Quantised | None = None
    domains: dict[str, str] = field(default_factory=dict)
    closed: frozenset[str] = frozenset()
    hooks: list[Any] = field(default_factory=list)
    averages: dict[str, Any] = field(default_factory=dict)
    """Mean gates `[adapters]` by place, where they were measured."""

    @property
    def names(self) -> tuple[str, ...]:
        """The adapters in their order."""
        return tuple(self.parts)

    def known(self) -> dict[str, int]:
        """The adapter of each domain, by its place."""
        places = {name: place for place, name in enumerate(self.names)}
        return places | {domain: places[name] for domain, name in self.domains.items() if name in places}


def mixture_in(model: Any) -> Mixture:
    """The mixture in a model. Raises AdaptError where there is none."""
    found = getattr(model, PLACE, None)
    if found is None:
        raise AdaptError("this model holds no mixture; load one with adapt.load_mixture")
    return found


def layers_of(model: nn.Module) -> dict[str, MixtureLinear]:
    """The layers with adapters beside them, by the name of the module in the plain model."""
    return {name: module for name, module in model.named_modules() if isinstance(module, MixtureLinear)}


def routers_of(model: nn.Module) -> dict[str, SiteRouter]:
    """Every gate once, by the place where it stands."""
    found = {module.path: module for module in model.modules() if isinstance(module, SiteRouter)}
    return dict(sorted(found.items(), key=lambda item: _natural(item[0])))


def _natural(path: str) -> list[tuple[int, str]]:
    return [(int(part), "") if part.isdigit() else (-1, part) for part in path.split(".")]


def factors_of(model: nn.Module, name: str) -> dict[str, Factors]:
    """An adapter's factors as the model has them now, by module."""
    found = {module: layer.stack.factors(name) for module, layer in layers_of(model).items()}
    return {module: factors for module, factors in found.items() if factors is not None}


def sites(mixture: Mixture, sizes: Mapping[str, tuple[int, int]]) -> Iterator[str]:
    """The layers with an update of any adapter, in the model's order. `sizes` are those of all its linear layers."""
    used = {module for part in mixture.parts.values() for module in part.factors}
    return (module for module in sizes if module in used)
