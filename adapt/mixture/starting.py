"""A mixture as its training begins."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from adapt.checkpoints import ModelLocation, load_tokenizer
from adapt.errors import AdaptError
from adapt.methods.base import Batches
from adapt.mixture.assembly import mixture_of
from adapt.mixture.bases import Base
from adapt.mixture.further import fresh_parts, take_over
from adapt.mixture.gating.nearest import NearestRouter
from adapt.mixture.mixture import mixture_in, routers_of
from adapt.training.rates import set_rate

if TYPE_CHECKING:
    from adapt.methods.mixture_of_lora import MixtureOfLora


def start(method: MixtureOfLora, model: Any, location: ModelLocation, batches: Batches) -> Any:
    """Put the method's adapters and gates into a base, in place, and set what of them trains."""
    base, joint = Base.of(location), method.train == "joint"
    tokenizer, joined = load_tokenizer(location), True
    if method.from_mixture is not None:
        joined = take_over(method, model, base, tokenizer)
    else:
        mixture_of(
            model,
            method.adapters | fresh_parts(method, model, base),
            method.router,
            base=base,
            gate=method.gate,
            tokenizer=tokenizer,
            domains=method.domains,
            trainable=joint,
            quantised="nf4" if method.over == "nf4" else None,
        )
    mixture = mixture_in(model)
    if joint:  # their files are no longer what the layers hold
        mixture.parts = {name: replace(part, folder=None) for name, part in mixture.parts.items()}
    gates = routers_of(model).values()
    for gate in gates:
        for parameter in gate.parameters():
            set_rate(parameter, method.gate_rate)
    if joined and any(isinstance(gate, NearestRouter) and not gate.learned for gate in gates):
        place_keys(model, batches())
    return model


def place_keys(model: Any, batches: Any) -> None:
    """Set the keys of a nearest-key router to the mean input of each adapter's text, `batches` with their domains.

    The base computes alone meanwhile. Raises AdaptError for an adapter without text.
    """
    from adapt.mixture.observing import observe_batches

    gates = [gate for gate in routers_of(model).values() if isinstance(gate, NearestRouter)]
    for gate in gates:
        gate.begin_means()
    observe_batches(model, mixture_in(model).routing, batches)
    for gate in gates:
        seen = gate.end_means()
        missing = [name for name, tokens in zip(mixture_in(model).names, seen.tolist(), strict=True) if not tokens]
        if missing:
            raise AdaptError(
                f"router 'nearest_key': no text is for the adapter '{missing[0]}', so it has no key; name its source "
                "with domains"
            )
