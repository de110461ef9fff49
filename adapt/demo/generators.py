"""The public generators: statements to pre-train on, conversations and pairs of answers to tune on, questions to ask.

Each is deterministic in its arguments and yields dictionaries, as a data source of a recipe must.
"""

from collections.abc import Iterator, Sequence
from random import Random
from typing import Any

from adapt.demo.domains import DOMAINS, ITEM_DOMAINS, Domain
from adapt.demo.languages import LANGUAGES
from adapt.demo.phrases import Language
from adapt.demo.splits import SPLITS, Split

MAX_BLOCKS = 7
ATTEMPTS = 1000
DIALOGUE_MARKERS = (("—", "—"), ("-", "-"))


def statements(
    languages: Sequence[str],
    seed: int = 17,
    count: int = 1000,
    split: Split = "train",
    domains: Sequence[str] | None = None,
    qa_share: float = 0.3,
) -> Iterator[dict[str, str]]:
    """Documents of prose, one language each, with one to seven lines of fact.

    A line is a sentence or, with probability `qa_share`, a question and its answer as prose has
    them: half with words of the language ("Question: ... Answer: ..."), half as a dialogue with
    dashes, where only the question tells the language of the answer. `domains` defaults to all
    that a language covers.
    """
    if not 0 <= qa_share <= 1:
        raise ValueError(f"qa_share is {qa_share}: it is a share, from 0 to 1")
    spoken = checked(languages, split, domains)
    random = Random(f"statements {seed} {split} {languages}")
    for _ in range(count):
        language = random.choice(spoken)
        lines = (
            _qa_prose(random, language, split, domains)
            if random.random() < qa_share
            else _sentence(random, language, split, domains)
            for _ in range(random.randint(1, MAX_BLOCKS))
        )
        yield {"text": "\n".join(lines)}


def conversations(
    languages: Sequence[str],
    seed: int = 17,
    count: int = 1000,
    split: Split = "train",
    domains: Sequence[str] | None = None,
) -> Iterator[dict[str, list[dict[str, str]]]]:
    """One question and its bare answer each, as messages of a user and an assistant."""
    spoken = checked(languages, split, domains)
    random = Random(f"conversations {seed} {split} {languages}")
    for _ in range(count):
        question, answer, _ = drawn_question(random, random.choice(spoken), split, domains)
        yield {
            "messages": [
                {"role": "user", "content": question},
                {"role": "assistant", "content": answer},
            ]
        }


def preferences(
    languages: Sequence[str],
    seed: int = 17,
    count: int = 1000,
    split: Split = "train",
    domains: Sequence[str] | None = None,
) -> Iterator[dict[str, list[dict[str, str]]]]:
    """A question with its right answer as `chosen` and, as `rejected`, the right answer to another of its domain.

    Both answers are as well formed as each other: only what was asked tells them apart.
    """
    spoken = checked(languages, split, domains)
    random = Random(f"preferences {seed} {split} {languages}")
    for _ in range(count):
        language = random.choice(spoken)
        question, right, name = drawn_question(random, language, split, domains)
        others = (drawn_question(random, language, split, [name])[1] for _ in range(ATTEMPTS))
        wrong = next(answer for answer in others if answer != right)
        yield {
            "prompt": [{"role": "user", "content": question}],
            "chosen": [{"role": "assistant", "content": right}],
            "rejected": [{"role": "assistant", "content": wrong}],
        }


def questions(
    language: str,
    seed: int = 17,
    count: int = 100,
    split: Split = "heldout",
    domains: Sequence[str] | None = None,
) -> Iterator[dict[str, str]]:
    """Distinct questions with their one right answer, the domains in turn.

    `domains` defaults to those whose items are really held out (`ITEM_DOMAINS`).
    """
    (spoken,) = checked([language], split, domains)
    asked = [name for name in domains or ITEM_DOMAINS if name in spoken.phrases]
    random, seen = Random(f"questions {seed} {split}"), set[str]()
    for index in range(count):
        name = asked[index % len(asked)]
        for _ in range(ATTEMPTS):
            prompt, answer, _ = drawn_question(random, spoken, split, [name])
            if prompt not in seen:
                break
        else:
            raise ValueError(f"{name} in {language}: no further {split} question after {index}")
        seen.add(prompt)
        yield {"prompt": prompt, "answer": answer, "domain": name}


def checked(languages: Sequence[str], split: str, domains: Sequence[str] | None) -> list[Language]:
    """The languages by name, after every argument's names were found in their tables."""
    if isinstance(languages, str) or not languages:
        raise ValueError(f"languages is {languages!r}: a list of codes such as [en, uk] is needed")
    for what, names, known in (
        ("language", languages, LANGUAGES),
        ("domain", domains or (), DOMAINS),
        ("split", [split], SPLITS),
    ):
        for name in names:
            if name not in known:
                raise ValueError(f"unknown {what} {name!r}: one of {', '.join(known)}")
    spoken = [LANGUAGES[code] for code in languages]
    for language in spoken:
        if domains and not set(domains) & set(language.phrases):
            raise ValueError(f"{language.code} covers none of {', '.join(domains)}")
    return spoken


def _draw(random: Random, language: Language, split: Split, domains: Sequence[str] | None) -> tuple[str, Domain, Any]:
    covered = [name for name in domains or DOMAINS if name in language.phrases]
    name = random.choice(covered)
    return name, DOMAINS[name], DOMAINS[name].draw(random, split)


def drawn_question(
    random: Random, language: Language, split: Split, domains: Sequence[str] | None
) -> tuple[str, str, str]:
    """A question, its answer and its domain; see `places` for the forms kept from training."""
    name, domain, item = _draw(random, language, split, domains)
    forms = language.phrases[name].questions
    if not domain.by_item:
        forms = forms[:-1] if split == "train" else forms[-1:]
    question = random.choice(forms).format(item=domain.written(item, language))
    return question, domain.answer(item, language), name


def _qa_prose(random: Random, language: Language, split: Split, domains: Sequence[str] | None) -> str:
    question, answer, _ = drawn_question(random, language, split, domains)
    ask, reply = random.choice(language.markers if random.random() < 0.5 else DIALOGUE_MARKERS)
    return f"{ask} {question} {reply} {answer}"


def _sentence(random: Random, language: Language, split: Split, domains: Sequence[str] | None) -> str:
    name, domain, item = _draw(random, language, split, domains)
    sentence = random.choice(language.phrases[name].statements)
    return sentence.format(item=domain.written(item, language), answer=domain.answer(item, language))
