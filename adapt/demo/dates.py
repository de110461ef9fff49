"""Dates: 2020-03-05 as "March 5, 2020"."""

from datetime import date

from babel.dates import format_date

from adapt.demo.phrases import Language
from adapt.demo.splits import draw_date

draw = draw_date


def written(day: date, language: Language) -> str:
    """ISO 8601, the same in every language."""
    return day.isoformat()


def in_words(day: date, language: Language) -> str:
    """The date with the name of its month, in the order and the case that CLDR gives."""
    return format_date(day, language.date_pattern, locale=language.code)
