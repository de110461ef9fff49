"""Amounts: "345 km" as "345 kilometers", "345 UAH" as "345 Ukrainian hryvnias".

The held-out item is the number. What is to be learnt is the name of the unit and its form after
that number: CLDR knows the plural rules of every language. The units are those whose short form
differs from the long one in all of them.
"""

from functools import cache
from random import Random
from typing import NamedTuple

from babel.numbers import format_currency
from babel.units import format_unit

from adapt.demo.phrases import Language
from adapt.demo.splits import Split, draw_number

UNITS = (
    "length-kilometer",
    "length-centimeter",
    "length-millimeter",
    "mass-kilogram",
    "mass-milligram",
    "volume-milliliter",
    "power-kilowatt",
    "frequency-hertz",
)
CURRENCIES = ("USD", "EUR", "UAH", "GBP")


class Amount(NamedTuple):
    """A number of a CLDR unit or of a currency by its ISO 4217 code."""

    number: int
    measure: str


def draw(random: Random, split: Split) -> Amount:
    """A number of the split with any measure."""
    return Amount(draw_number(random, split), random.choice(UNITS + CURRENCIES))


def written(amount: Amount, language: Language) -> str:
    """The short form: the unit's symbol in the language, or the currency's code."""
    if amount.measure in CURRENCIES:
        return f"{amount.number} {amount.measure}"
    return _unit(amount, language.code, "short")


def in_full(amount: Amount, language: Language) -> str:
    """The long form, digits kept, the name in the form that the number asks for."""
    if amount.measure in CURRENCIES:
        return _currency(amount, language.code)
    return _unit(amount, language.code, "long")


@cache
def _unit(amount: Amount, code: str, length: str) -> str:
    return _plain(format_unit(amount.number, amount.measure, length=length, locale=code))


@cache
def _currency(amount: Amount, code: str) -> str:
    return _plain(
        format_currency(
            amount.number,
            amount.measure,
            format="0",
            locale=code,
            format_type="name",
            currency_digits=False,
        )
    )


def _plain(text: str) -> str:
    """CLDR's no-break spaces as plain ones."""
    return text.replace("\u00a0", " ").replace("\u202f", " ")
