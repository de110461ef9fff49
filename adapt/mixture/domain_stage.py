"""A mixture of domain adapters as its training begins, and what a stage keeps of it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from adapt.checkpoints import ModelLocation, load_tokenizer
from adapt.methods.base import Batches, Trained
from adapt.methods.export import live_logits
from adapt.mixture.bases import Base
from adapt.mixture.collapse import mean_gates, weights_of
from adapt.mixture.domain_folder import read_domain_adapter
from adapt.mixture.domain_mixture_folder import save_domain_mixture
from adapt.mixture.domains import DomainMixture, mix_domains
from adapt.mixture.gating.nearest import NearestRouter
from adapt.mixture.mixture import mixture_in, routers_of
from adapt.mixture.plain import write_dense
from adapt.mixture.saving import read_back, some_domains
from adapt.mixture.starting import place_keys
from adapt.training.rates import set_rate

if TYPE_CHECKING:
    from adapt.methods.mixture_of_domain_adapters import MixtureOfDomainAdapters


def start(method: MixtureOfDomainAdapters, model: Any, location: ModelLocation, batches: Batches) -> Any:
    """Put the method's adapters, gates and task adapter into a base, in place."""
    mixture = DomainMixture(
        adapters={name: read_domain_adapter(folder) for name, folder in method.adapters.items()},
        router=method.router,
        base=Base.of(location),
        task=method.task,
        quantised="nf4" if method.over == "nf4" else None,
        domains=method.domains,
    )
    mix_domains(model, mixture, load_tokenizer(location))
    gates = routers_of(model).values()
    for gate in gates:
        for parameter in gate.parameters():
            set_rate(parameter, method.gate_rate)
    if any(isinstance(gate, NearestRouter) and not gate.learned for gate in gates):
        place_keys(model, batches())
    model.adapt_batches = batches
    return model


def save(trained: Trained, folder: Path) -> dict[str, Any]:
    """Write `folder/mixture` and `folder/model`; both are read back and compared with the model as it trained.

    `model/` has the adapters in the mean shares that they had on the run's own data, and the task adapter whole; what
    the means cost is measured.
    """
    model, mixture = trained.model, mixture_in(trained.model)
    with some_domains(mixture, len(trained.probe)):
        expected = live_logits(trained)
        save_domain_mixture(model, trained.tokenizer, folder / "mixture")
        difference = read_back(trained, expected, folder / "mixture")
        averages = mixture.averages
        weights = weights_of(model, averages) if averages else mean_gates(model, [{"input_ids": trained.probe}])
        numbers = write_dense(trained, folder, weights)
    numbers["reload_difference"] = max(difference, numbers["reload_difference"])
    return numbers | {"collapse": {"by": "average", **numbers["merge"]["written"]}}
