"""Questions that need two domains in one answer: two questions in a row, and both answers in their order.

    Запиши число 345 словами. Яка це дата: 2020-03-05?   ->   триста сорок п'ять; 5 березня 2020 року

A model that knows one of the domains gets half of the answer, which counts as wrong. How two questions in a row are
answered can be learned within one domain, from `series`: then only the domains are new to one another.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import permutations
from random import Random

from adapt.demo.domains import ITEM_DOMAINS
from adapt.demo.generators import ATTEMPTS, checked, drawn_question
from adapt.demo.phrases import Language
from adapt.demo.splits import Split


def series(
    languages: Sequence[str],
    domain: str,
    seed: int = 17,
    count: int = 1000,
    split: Split = "train",
) -> Iterator[dict[str, list[dict[str, str]]]]:
    """One question, or two in a row, of one domain only, and the answers in their order, as messages."""
    spoken = checked(languages, split, [domain])
    random = Random(f"series {domain} {seed} {split}")
    for _ in range(count):
        prompt, answer = _composite(random, random.choice(spoken), split, [domain] * random.choice((1, 2)))
        yield _conversation(prompt, answer)


def composite_conversations(
    languages: Sequence[str],
    seed: int = 17,
    count: int = 1000,
    split: Split = "train",
    domains: Sequence[str] = ITEM_DOMAINS,
) -> Iterator[dict[str, list[dict[str, str]]]]:
    """Two questions of different domains and both answers each, as messages of a user and an assistant."""
    spoken = checked(languages, split, domains)
    random = Random(f"composite conversations {seed} {split}")
    for _ in range(count):
        language = random.choice(spoken)
        prompt, answer = _composite(random, language, split, random.choice(pairs(language, domains)))
        yield _conversation(prompt, answer)


def composite_questions(
    language: str,
    seed: int = 17,
    count: int = 100,
    split: Split = "heldout",
    domains: Sequence[str] = ITEM_DOMAINS,
) -> Iterator[dict[str, str]]:
    """Distinct composite questions with their one right answer, the pairs of domains in turn, each order apart."""
    (spoken,) = checked([language], split, domains)
    random, seen, asked = Random(f"composite questions {seed} {split}"), set[str](), pairs(spoken, domains)
    for index in range(count):
        pair = asked[index % len(asked)]
        for _ in range(ATTEMPTS):
            prompt, answer = _composite(random, spoken, split, pair)
            if prompt not in seen:
                break
        else:
            raise ValueError(f"{'+'.join(pair)} in {language}: no further {split} question after {index}")
        seen.add(prompt)
        yield {"prompt": prompt, "answer": answer, "domain": "+".join(pair)}


def pairs(language: Language, domains: Sequence[str]) -> list[tuple[str, str]]:
    """All ordered pairs of different domains that the language covers. Raises ValueError where there is none."""
    found = list(permutations((name for name in domains if name in language.phrases), 2))
    if not found:
        raise ValueError(f"{language.code} covers fewer than two of {', '.join(domains)}")
    return found


def _conversation(prompt: str, answer: str) -> dict[str, list[dict[str, str]]]:
    return {"messages": [{"role": "user", "content": prompt}, {"role": "assistant", "content": answer}]}


def _composite(random: Random, language: Language, split: Split, names: Sequence[str]) -> tuple[str, str]:
    asked, answers, _ = zip(*(drawn_question(random, language, split, [name]) for name in names), strict=True)
    return " ".join(asked), "; ".join(answers)
