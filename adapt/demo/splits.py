"""Which items are held out: a hash of the item's value, the same in every language and domain.

An item counts as seen when its text occurs anywhere, also inside another item, so hashing alone
is not enough. Three rules make the split airtight for models that read digit by digit:

* A number may be held out only if no other text of the generator contains it: its last two digits
  are not zero ("three hundred and forty" is a part of "three hundred and forty-five"), it is not
  below 200 (the French 116, "cent seize", is a part of 216, "deux cent seize"), and it is below
  900, so that no year of `YEARS` contains its digits.
* Numbers of the seventh and the eighth hundred are held out in pairs: the Ukrainian 713, "сімсот
  тринадцять", is a part of 813, "вісімсот тринадцять".
* Dates are held out in families of one year, month and last digit of the day, because
  "5 March 2020" is a part of "15 March 2020".
"""

import calendar
import hashlib
from datetime import date
from functools import cache
from random import Random
from typing import Literal, get_args

Split = Literal["train", "dev", "heldout"]
SPLITS: tuple[str, ...] = get_args(Split)

NUMBERS = range(1000)
YEARS = range(1900, 2100)
HELDOUT_SHARE = 0.15
DEV_SHARE = 0.08


def split_of(key: str) -> Split:
    """The split of a key: the first eight bytes of its SHA-256, read as a fraction of one."""
    fraction = int.from_bytes(hashlib.sha256(key.encode()).digest()[:8], "big") / 2**64
    if fraction < HELDOUT_SHARE:
        return "heldout"
    return "dev" if fraction < HELDOUT_SHARE + DEV_SHARE else "train"


def number_split(number: int) -> Split:
    """The split of a number; one that other texts may contain is always a training item."""
    hundreds, rest = divmod(number, 100)
    stands_alone = 2 <= hundreds <= 8 and rest // 10 and rest % 10
    return split_of(f"number {min(hundreds, 7)} {rest}") if stands_alone else "train"


def date_split(day: date) -> Split:
    """The split of a date: that of its family (year, month, last digit of the day)."""
    return split_of(f"date {day.year}-{day.month} {day.day % 10}")


@cache
def numbers(split: Split) -> tuple[int, ...]:
    """All numbers of a split, in order."""
    return tuple(number for number in NUMBERS if number_split(number) == split)


def draw_number(random: Random, split: Split) -> int:
    """A number of the split, uniformly."""
    return random.choice(numbers(split))


def draw_date(random: Random, split: Split) -> date:
    """A date of the split, uniformly over years and months."""
    while True:
        year, month = random.choice(YEARS), random.randint(1, 12)
        day = date(year, month, random.randint(1, calendar.monthrange(year, month)[1]))
        if date_split(day) == split:
            return day
