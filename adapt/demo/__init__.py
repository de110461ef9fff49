"""The worked example's text: sentences, questions and conversations with one right answer each.

Nothing is downloaded. The linguistic knowledge comes from CLDR through `Babel` (dates, units,
currencies, countries) and from `num2words` (cardinals and ordinals), in a dozen languages.
Recipes use the public functions as Python generators by import path::

    english: {generator: "adapt.demo:statements", arguments: {languages: [en], count: 20000}}
"""

from adapt.demo.cheques import cheques
from adapt.demo.composites import composite_conversations, composite_questions, series
from adapt.demo.domains import DOMAINS, ITEM_DOMAINS
from adapt.demo.generators import conversations, preferences, questions, statements
from adapt.demo.languages import LANGUAGES

__all__ = [
    "DOMAINS",
    "ITEM_DOMAINS",
    "LANGUAGES",
    "cheques",
    "composite_conversations",
    "composite_questions",
    "conversations",
    "preferences",
    "questions",
    "series",
    "statements",
]
