"""A domain that the example models have never read: cheques, with their amounts in figures and in words.

    Pay to the order of Nora Bell: USD 345.20, three hundred and forty-five dollars, twenty cents. For: rent.

The words come from num2words. Amounts whose whole part is held out for the rest of the example are held out here too.
"""

from __future__ import annotations

from collections.abc import Iterator
from random import Random

from num2words import num2words

from adapt.demo.splits import Split, draw_number

CURRENCIES = ("USD", "EUR", "GBP")
FIRST = ("Nora", "Omar", "Lena", "Ivan", "Ada", "Hugo", "Mira", "Paul", "Rosa", "Theo")
LAST = ("Bell", "Novak", "Weber", "Costa", "Lind", "Moreau", "Kovacs", "Ross", "Adler", "Silva")
PURPOSES = ("rent", "repairs", "tuition", "books", "firewood", "a deposit", "music lessons", "the harvest")
FORMS = (
    "Pay to the order of {name}: {figures}, {words}. For: {purpose}.",
    "Cheque no. {number}. Payee: {name}. The sum of {words} ({figures}) only. Memo: {purpose}.",
    "{name} shall receive {figures}, in words {words}, against this cheque for {purpose}.",
)


def cheques(seed: int = 17, count: int = 1000, split: Split = "train") -> Iterator[dict[str, str]]:
    """Documents of one to four cheques each; deterministic in the arguments."""
    random = Random(f"cheques {seed} {split}")
    for _ in range(count):
        yield {"text": "\n".join(_cheque(random, split) for _ in range(random.randint(1, 4)))}


def _cheque(random: Random, split: Split) -> str:
    whole, cents, currency = draw_number(random, split), random.randrange(100), random.choice(CURRENCIES)
    return random.choice(FORMS).format(
        name=f"{random.choice(FIRST)} {random.choice(LAST)}",
        number=draw_number(random, split),
        figures=f"{currency} {whole}.{cents:02d}",
        words=num2words(f"{whole}.{cents:02d}", lang="en", to="currency", currency=currency),
        purpose=random.choice(PURPOSES),
    )
