"""The table of domains: what is asked, how an item is written, and its one right answer."""

from collections.abc import Callable
from dataclasses import dataclass
from random import Random
from typing import Any

from adapt.demo import amounts, dates, numbers, places
from adapt.demo.phrases import Language
from adapt.demo.splits import Split


@dataclass(frozen=True)
class Domain:
    """One kind of question.

    `draw` picks an item of a split; `written` gives the item as a question shows it; `answer` gives
    its one right answer. `by_item` is False where items cannot be held out and the split separates
    the forms of the questions instead.
    """

    draw: Callable[[Random, Split], Any]
    written: Callable[[Any, Language], str]
    answer: Callable[[Any, Language], str]
    by_item: bool = True


DOMAINS: dict[str, Domain] = {
    "numbers": Domain(numbers.draw, numbers.written, numbers.cardinal),
    "ordinals": Domain(numbers.draw_positive, numbers.written, numbers.ordinal),
    "dates": Domain(dates.draw, dates.written, dates.in_words),
    "amounts": Domain(amounts.draw, amounts.written, amounts.in_full),
    "countries": Domain(places.draw, places.written, places.name, by_item=False),
}
ITEM_DOMAINS: tuple[str, ...] = tuple(name for name, domain in DOMAINS.items() if domain.by_item)
