"""Numbers: 345 as "three hundred and forty-five" and as "three hundred and forty-fifth"."""

from functools import cache
from random import Random

from num2words import num2words

from adapt.demo.phrases import Language
from adapt.demo.splits import Split, draw_number

draw = draw_number


def draw_positive(random: Random, split: Split) -> int:
    """A number that has an ordinal: any but zero."""
    while not (number := draw_number(random, split)):
        pass
    return number


def written(number: int, language: Language) -> str:
    """Digits are the same in every language of the example."""
    return str(number)


def cardinal(number: int, language: Language) -> str:
    """The number in words."""
    return _words(number, language.code, "cardinal")


def ordinal(number: int, language: Language) -> str:
    """The ordinal in words, in the citation form of the language (masculine where there is one)."""
    return _words(number, language.code, "ordinal")


@cache
def _words(number: int, code: str, form: str) -> str:
    return num2words(number, lang=code, to=form)
