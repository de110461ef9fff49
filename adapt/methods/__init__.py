"""Ways to adapt a model, by name. A new one is a file here and a line in the table."""

from __future__ import annotations

from typing import Annotated, Any, Union

from pydantic import BeforeValidator, Field

from adapt.methods.base import Method
from adapt.methods.bitfit import Bitfit
from adapt.methods.domain_adapter import DomainAdapter
from adapt.methods.freeze import Freeze
from adapt.methods.full import Full
from adapt.methods.half import Half
from adapt.methods.lisa import Lisa
from adapt.methods.lora import Lora
from adapt.methods.loram import Loram
from adapt.methods.mixture_of_domain_adapters import MixtureOfDomainAdapters
from adapt.methods.mixture_of_lora import MixtureOfLora
from adapt.methods.norms import Norms
from adapt.methods.pruned import Pruned
from adapt.methods.qlora import Qlora
from adapt.methods.rows_only import RowsOnly
from adapt.methods.spectrum import Spectrum
from adapt.methods.vera import Vera

METHODS: tuple[type[Method], ...] = (
    Full,
    Half,
    Freeze,
    Lisa,
    Spectrum,
    Bitfit,
    Norms,
    Lora,
    Qlora,
    Loram,
    Pruned,
    Vera,
    RowsOnly,
    DomainAdapter,
    MixtureOfLora,
    MixtureOfDomainAdapters,
)


def named(value: Any) -> Any:
    """`full` as a short form of `{kind: full}`."""
    return {"kind": value} if isinstance(value, str) else value


AnyMethod = Annotated[Union[METHODS], Field(discriminator="kind"), BeforeValidator(named)]  # noqa: UP007

__all__ = ["METHODS", "AnyMethod", "Method"]
