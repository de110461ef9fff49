"""A mixture that trains further: its adapters, router and gates taken over, other adapters beside them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from adapt.errors import AdaptError
from adapt.mixture.adapters import Part, fresh_part, read_part, targeted
from adapt.mixture.assembly import marks_of, mixture_of, rebuilt
from adapt.mixture.bases import Base
from adapt.mixture.conflicts import whole_conflicts
from adapt.mixture.folder import ADAPTERS, check_digest, load_gates, part_of, read_mixture, router_of
from adapt.mixture.mixture import mixture_in

if TYPE_CHECKING:
    from adapt.methods.mixture_of_lora import MixtureOfLora


def with_mixture(method: MixtureOfLora, folder: Path) -> MixtureOfLora:
    """The method with the adapters, router, gate and domains of the mixture in `folder`, before its own.

    Raises AdaptError where the two do not go together.
    """
    found = read_mixture(folder)
    if found["kind"] != "lora":
        raise AdaptError(
            f"the mixture in '{folder}' is one of domain adapters, which does not train further; name its adapters in "
            "a train stage with method mixture_of_domain_adapters"
        )
    if taken := sorted({*method.names} & {*found["adapters"]}):
        raise AdaptError(f"the mixture in '{folder}' has an adapter '{taken[0]}' already; give the other another name")
    changes = {
        "from_mixture": str(folder),
        "adapters": {name: str(folder / ADAPTERS / name) for name in found["adapters"]} | method.adapters,
        "router": router_of(folder, found["router"]),
        "gate": found["gate"],
        "domains": found.get("domains", {}) | method.domains,
    }
    whole = method.model_copy(update=changes)
    for key, message in whole_conflicts(whole):
        raise AdaptError(f"method.{key}: {message} (with what the mixture in '{folder}' has)")
    return whole


def take_over(method: MixtureOfLora, model: Any, base: Base, tokenizer: Any) -> bool:
    """Put the mixture of a method from `with_mixture` into a base, in place; returns whether adapters joined it.

    Adapters without weight so far get the one that their gates, untrained for them, give. Raises AdaptError for a
    mixture over another base.
    """
    folder = Path(method.from_mixture)
    found = read_mixture(folder)
    check_digest(folder, found["base"], base)
    mixture_of(
        model,
        {name: part_of(folder, name, model) for name in found["adapters"]},
        method.router,
        base=base,
        gate=method.gate,
        tokenizer=tokenizer,
        closed=found.get("closed", ()),
        quantised="nf4" if method.over == "nf4" else None,
    )
    load_gates(model, folder)
    mixture = mixture_in(model)
    mixture.domains = dict(method.domains)
    others = {name: place for name, place in method.adapters.items() if name not in mixture.parts}
    joined = {name: read_part(name, place, model, base, tokenizer) for name, place in others.items()}
    joined |= fresh_parts(method, model, base)
    rebuilt(model, mixture.parts | joined, (), method.names if method.train == "joint" else ())
    mixture = mixture_in(model)
    mixture.routing.marks = marks_of(mixture, tokenizer)
    return bool(joined)


def fresh_parts(method: MixtureOfLora, model: Any, base: Base) -> dict[str, Part]:
    """The method's new adapters."""
    if not method.new:
        return {}
    modules, alpha = targeted(model, method.targets), method.alpha or 2 * method.r
    return {name: fresh_part(modules, method.r, alpha, base) for name in method.names if name not in method.adapters}
