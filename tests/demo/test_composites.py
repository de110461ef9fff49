"""Composite questions: two domains, both orders, nothing held out in training, both answers in order."""

import re

import pytest

from adapt.demo import LANGUAGES, composite_conversations, composite_questions, questions, series
from adapt.demo.composites import pairs
from adapt.demo.numbers import cardinal
from adapt.demo.splits import number_split, numbers

DOMAINS = ["numbers", "dates", "amounts"]


def single_answers(domain: str, count: int) -> dict[str, str]:
    """So many questions of one domain, or all that there are."""
    found = {}
    try:
        for item in questions("uk", count=count, split="dev", domains=[domain]):
            found[item["prompt"]] = item["answer"]
    except ValueError:
        pass
    return found


def test_a_composite_is_two_questions_with_both_answers():
    known = single_answers("numbers", 1000) | single_answers("amounts", 2500)
    found = 0
    for item in composite_questions("uk", count=200, split="dev", domains=["numbers", "amounts"]):
        ends = [match.end() for match in re.finditer(r"[.?] ", item["prompt"])]
        for end in ends:
            one, other = item["prompt"][: end - 1], item["prompt"][end:]
            if one in known and other in known:
                assert item["answer"] == f"{known[one]}; {known[other]}"
                found += 1
    assert found > 20


def test_pairs_come_in_turn_in_both_orders():
    items = list(composite_questions("uk", count=12, domains=DOMAINS))
    assert [item["domain"] for item in items] == [f"{a}+{b}" for a, b in pairs(LANGUAGES["uk"], DOMAINS)] * 2
    assert len({item["prompt"] for item in items}) == 12
    assert items == list(composite_questions("uk", count=12, domains=DOMAINS))


def test_training_composites_share_no_prompt_with_held_out_ones():
    trained = {item["messages"][0]["content"] for item in composite_conversations(["uk"], count=500, domains=DOMAINS)}
    assert trained.isdisjoint(item["prompt"] for item in composite_questions("uk", count=500, domains=DOMAINS))


def test_series_and_composites_to_train_on_hold_no_unseen_number():
    made = [composite_conversations(["uk"], count=400, domains=DOMAINS)]
    made += [series(["uk"], domain, count=300) for domain in DOMAINS]
    text = "\n".join(message["content"] for rows in made for row in rows for message in row["messages"])
    windows = {run[i : i + 3] for run in re.findall(r"\d{3,}", text) for i in range(len(run) - 2)}
    assert {number_split(int(window)) for window in windows} == {"train"}
    unseen = numbers("heldout") + numbers("dev")
    assert not [number for number in unseen if cardinal(number, LANGUAGES["uk"]) in text]


def test_a_series_asks_once_or_twice_within_one_domain():
    answers = [row["messages"][1]["content"].split("; ") for row in series(["uk"], "amounts", count=200)]
    assert {len(parts) for parts in answers} == {1, 2}
    assert all(re.match(r"\d+ \w", part) for parts in answers for part in parts)
    assert list(series(["uk"], "dates", count=5)) == list(series(["uk"], "dates", count=5))


def test_one_domain_makes_no_composite():
    with pytest.raises(ValueError, match="uk covers fewer than two of dates"):
        next(composite_questions("uk", domains=["dates"]))
    with pytest.raises(ValueError, match="unknown domain 'date': one of numbers"):
        next(series(["uk"], "date"))
