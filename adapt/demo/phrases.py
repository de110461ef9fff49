"""What a language brings to the example: its phrasings, with slots for an item and its answer."""

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Phrases:
    """The phrasings of one domain in one language.

    `questions` have the slot ``{item}``; `statements` have ``{item}`` and ``{answer}``.
    """

    questions: tuple[str, ...]
    statements: tuple[str, ...]


@dataclass(frozen=True)
class Language:
    """One language of the example.

    `code` is its name for both CLDR and num2words; `markers` are the pairs of words that open a
    question and its answer in prose; `date_pattern` is a CLDR pattern or the name of one;
    `phrases` has one entry per domain that the language covers.
    """

    code: str
    markers: tuple[tuple[str, str], ...]
    phrases: Mapping[str, Phrases]
    date_pattern: str = "long"
