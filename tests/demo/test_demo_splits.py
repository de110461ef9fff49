"""Held-out items never occur in training text, in any language, not even inside another item."""

import re
from datetime import date, timedelta

import pytest

from adapt.demo import LANGUAGES, conversations, statements
from adapt.demo.dates import in_words
from adapt.demo.numbers import cardinal, ordinal
from adapt.demo.splits import SPLITS, YEARS, date_split, number_split, numbers

SPOKEN = LANGUAGES.values()
UNSEEN = numbers("heldout") + numbers("dev")


@pytest.fixture(scope="module")
def training_text() -> dict[str, str]:
    """A large sample of every kind of training text, by language."""
    return {
        code: "\n".join(
            [document["text"] for document in statements([code], count=400)]
            + [
                message["content"]
                for conversation in conversations([code], count=400)
                for message in conversation["messages"]
            ]
        )
        for code in LANGUAGES
    }


def number_words(number: int) -> set[str]:
    """The number's words in every language, cardinal and ordinal."""
    words = {cardinal(number, language) for language in SPOKEN}
    covers = [language for language in SPOKEN if "ordinals" in language.phrases]
    return words | ({ordinal(number, language) for language in covers} if number else set())


def test_every_split_has_numbers_and_they_are_disjoint():
    sizes = [len(numbers(split)) for split in SPLITS]
    assert sum(sizes) == len(set().union(*(numbers(split) for split in SPLITS))) == 1000
    assert min(sizes) >= 40


def test_words_of_no_training_number_contain_an_unseen_number():
    trained = "\n".join(words for n in numbers("train") for words in number_words(n))
    assert not [words for n in UNSEEN for words in number_words(n) if words in trained]


def test_no_year_contains_an_unseen_number():
    assert not [(year, n) for year in YEARS for n in UNSEEN if str(n) in str(year)]


@pytest.mark.parametrize("code", LANGUAGES)
def test_no_training_date_contains_an_unseen_date(code):
    days = [date(2024, 1, 1) + timedelta(days=offset) for offset in range(366)]
    trained = "\n".join(in_words(d, LANGUAGES[code]) for d in days if date_split(d) == "train")
    unseen = [d for d in days if date_split(d) != "train"]
    assert len(unseen) > 20
    assert not [d for d in unseen if in_words(d, LANGUAGES[code]) in trained]


def test_digits_in_training_text_are_training_items(training_text):
    text = "\n".join(training_text.values())
    windows = {run[i : i + 3] for run in re.findall(r"\d{3,}", text) for i in range(len(run) - 2)}
    assert len(windows) > 700
    assert {number_split(int(window)) for window in windows} == {"train"}
    days = {date.fromisoformat(iso) for iso in re.findall(r"\d{4}-\d\d-\d\d", text)}
    assert len(days) > 1000
    assert {date_split(day) for day in days} == {"train"}


def test_words_in_training_text_are_training_items(training_text):
    text = "\n".join(training_text.values())
    assert not [words for number in UNSEEN for words in number_words(number) if words in text]
    days = [date(2000, 1, 1) + timedelta(days=offset) for offset in range(0, 18250, 17)]
    unseen = [day for day in days if date_split(day) != "train"]
    assert len(unseen) > 150
    assert not [
        (code, day) for code, text in training_text.items() for day in unseen if in_words(day, LANGUAGES[code]) in text
    ]
