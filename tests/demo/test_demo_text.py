"""The generators: deterministic, in the language asked for, with the one right answer."""

import re
from datetime import date

import pytest

from adapt.demo import DOMAINS, ITEM_DOMAINS, LANGUAGES, conversations, preferences, questions, statements
from adapt.demo.amounts import Amount
from adapt.demo.generators import DIALOGUE_MARKERS
from adapt.demo.splits import SPLITS

RIGHT_ANSWERS = {
    "How is 345 written in words?": "three hundred and forty-five",
    "What is the ordinal of 345?": "three hundred and forty-fifth",
    "Write the date 2020-03-05 in full.": "March 5, 2020",
    "What does 345 km stand for?": "345 kilometers",
    "Which country has the code UA?": "Ukraine",
    "Як записати число 345 словами?": "триста сорок п'ять",
    "Який порядковий числівник від 345?": "триста сорок п'ятий",
    "Запиши дату 2020-03-05 повністю.": "5 березня 2020 року",
    "Що означає запис 345 км?": "345 кілометрів",
    "Що означає запис 342 км?": "342 кілометри",
    "Що означає запис 341 км?": "341 кілометр",
    "Що означає запис 311 км?": "311 кілометрів",
    "Яка країна має код UA?": "Україна",
    "Was bedeutet 345 UAH?": "345 Ukrainische Hrywen",
}


def asked(question: str) -> str:
    """The generator's answer to a question, found by reading the item back out of it."""
    for language in LANGUAGES.values():
        for name, phrases in language.phrases.items():
            for form in phrases.questions:
                pattern = re.escape(form).replace(r"\{item\}", "(.+)")
                if found := re.fullmatch(pattern, question):
                    domain = DOMAINS[name]
                    item = parse(name, found.group(1))
                    assert domain.written(item, language) == found.group(1)
                    return domain.answer(item, language)
    raise AssertionError(question)


def parse(name: str, written: str):
    """The item behind its written form, for the forms that `RIGHT_ANSWERS` uses."""
    if name == "dates":
        return date.fromisoformat(written)
    if name == "amounts":
        number, symbol = written.split()
        measure = {"km": "length-kilometer", "км": "length-kilometer"}.get(symbol, symbol)
        return Amount(int(number), measure)
    return written if name == "countries" else int(written)


@pytest.mark.parametrize("question", RIGHT_ANSWERS)
def test_reference_answers(question):
    assert asked(question) == RIGHT_ANSWERS[question]


@pytest.mark.parametrize("code", LANGUAGES)
@pytest.mark.parametrize("split", SPLITS)
def test_questions_are_distinct_counted_and_have_one_answer(code, split):
    rows = list(questions(code, count=100, split=split))
    assert len(rows) == len({row["prompt"] for row in rows}) == 100
    covered = [name for name in ITEM_DOMAINS if name in LANGUAGES[code].phrases]
    assert [row["domain"] for row in rows] == [covered[i % len(covered)] for i in range(100)]
    assert all(row["answer"] and row["answer"] not in row["prompt"] for row in rows)


@pytest.mark.parametrize("code", LANGUAGES)
def test_a_question_has_the_same_answer_whoever_asks(code):
    answers: dict[str, set[str]] = {}
    for seed in (1, 2):
        for conversation in conversations([code], seed=seed, count=800):
            question, answer = (message["content"] for message in conversation["messages"])
            answers.setdefault(question, set()).add(answer)
    assert {len(found) for found in answers.values()} == {1}


@pytest.mark.parametrize("code", LANGUAGES)
def test_of_a_pair_of_answers_the_chosen_one_is_right_and_the_other_is_not(code):
    right: dict[str, str] = {}
    for conversation in conversations([code], count=3000):
        question, answer = (message["content"] for message in conversation["messages"])
        right[question] = answer
    pairs = list(preferences([code], count=300))
    known = [pair for pair in pairs if pair["prompt"][0]["content"] in right]
    assert len(known) > 30
    assert all(pair["chosen"][0]["content"] == right[pair["prompt"][0]["content"]] for pair in known)
    assert all(pair["chosen"] != pair["rejected"] for pair in pairs)


def test_the_same_arguments_give_the_same_text():
    for build in (
        lambda seed: list(statements(["en", "uk"], seed=seed, count=50)),
        lambda seed: list(conversations(["en", "de"], seed=seed, count=50)),
        lambda seed: list(preferences(["en", "de"], seed=seed, count=50)),
        lambda seed: list(questions("uk", seed=seed, count=50)),
    ):
        assert build(3) == build(3)
        assert build(3) != build(4)


def test_a_longer_run_begins_with_the_shorter_one():
    assert list(statements(["uk"], count=30))[:10] == list(statements(["uk"], count=10))


def test_ukrainian_is_cyrillic_and_the_others_are_not():
    cyrillic = re.compile("[а-яіїєґ]", re.IGNORECASE)
    for code in LANGUAGES:
        lines = "\n".join(document["text"] for document in statements([code], count=100)).split("\n")
        share = sum(bool(cyrillic.search(line)) for line in lines) / len(lines)
        assert share == (1 if code == "uk" else 0), code


def test_text_has_no_unusual_spaces_and_no_open_slots():
    for code in LANGUAGES:
        for document in statements([code], count=100):
            assert not re.search("[\u00a0\u202f{}]|  ", document["text"]), (code, document)


def test_the_share_of_questions_in_prose():
    def share(qa_share: float) -> float:
        lines = "\n".join(document["text"] for document in statements(["uk"], count=500, qa_share=qa_share)).split("\n")
        openings = tuple(ask for ask, _ in (*LANGUAGES["uk"].markers, *DIALOGUE_MARKERS))
        return sum(line.startswith(openings) for line in lines) / len(lines)

    assert share(0) == 0
    assert share(1) == 1
    assert share(0.3) == pytest.approx(0.3, abs=0.05)


def test_the_form_of_country_questions_is_held_out():
    kept = {code: LANGUAGES[code].phrases["countries"].questions[-1] for code in ("en", "uk")}
    for code, form in kept.items():
        opening = form.split("{item}")[0]
        trained = [c["messages"][0]["content"] for c in conversations([code], count=800)]
        assert not any(prompt.startswith(opening) for prompt in trained)
        rows = questions(code, count=20, domains=["countries"])
        assert all(row["prompt"].startswith(opening) for row in rows)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: statements(["xx"]), "unknown language 'xx'"),
        (lambda: statements("en"), "a list of codes"),
        (lambda: statements(["en"], domains=["songs"]), "unknown domain 'songs'"),
        (lambda: statements(["en"], split="test"), "unknown split 'test'"),
        (lambda: statements(["en"], qa_share=30), "qa_share is 30"),
        (lambda: conversations(["es"], domains=["ordinals"]), "es covers none of ordinals"),
        (lambda: questions("en", count=60, domains=["countries"]), "no further heldout question"),
    ],
)
def test_wrong_arguments_are_named(call, message):
    with pytest.raises(ValueError, match=message):
        list(call())
