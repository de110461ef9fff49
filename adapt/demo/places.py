"""Countries by their ISO 3166 codes: knowledge, which no rule can derive.

A country cannot be held out as an item: who never read its name cannot know it. Here the split
holds out the form of the question only: the last phrasing of each language is never trained on.
"""

from random import Random

from babel import Locale

from adapt.demo.phrases import Language
from adapt.demo.splits import Split

# fmt: off
COUNTRIES = (
    "AT", "AU", "BE", "BG", "BR", "CA", "CH", "CN", "CY", "CZ", "DE", "DK", "EE", "EG", "ES", "FI",
    "FR", "GB", "GE", "GR", "HR", "HU", "IE", "IL", "IN", "IS", "IT", "JP", "KE", "KR", "LT", "LV",
    "MD", "MX", "NL", "NO", "NZ", "PE", "PL", "PT", "RO", "RS", "SE", "SI", "SK", "TR", "UA", "US",
)
# fmt: on


def draw(random: Random, split: Split) -> str:
    """Any country: the split is one of forms."""
    return random.choice(COUNTRIES)


def written(country: str, language: Language) -> str:
    """The code itself."""
    return country


def name(country: str, language: Language) -> str:
    """The country's name in the language."""
    return Locale(language.code).territories[country]
