"""Which answers count as the same."""

from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adapt.evaluation.matching import matches, normalised


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ("twelve", "twelve"),
        ("  twelve \n", "twelve"),
        ("forty  five", "forty five"),
        ("twelve.", "twelve"),
        ("twelve", "twelve ."),
        ("п'ять\u0438\u0306", "п'ять\u0439"),  # й as a letter with a breve and as one character
        ("十二。", "十二"),
    ],
)
def test_same(answer, expected):
    assert matches(answer, [expected])


@pytest.mark.parametrize(
    ("answer", "expected"),
    [("twelve", "twelv"), ("Twelve", "twelve"), ("twelve..", "twelve"), ("12 twelve", "twelve"), ("", "twelve")],
)
def test_not_the_same(answer, expected):
    assert not matches(answer, [expected])


def test_keys():
    assert matches("ДВАНАДЦЯТЬ", ["дванадцять"], ignore_case=True)
    assert matches("STRASSE", ["Straße"], ignore_case=True)
    assert not matches("twelve.", ["twelve"], ignore_final_period=False)


def test_any_alias_counts():
    assert matches("a dozen", ["twelve", "a dozen"])


@given(st.text(), st.booleans(), st.booleans())
def test_normal_form_is_composed_trimmed_and_stable_under_unicode_forms(text, case, period):
    form = normalised(text, ignore_case=case, ignore_final_period=period)
    assert form == unicodedata.normalize("NFC", form)
    assert form == " ".join(form.split())
    decomposed = unicodedata.normalize("NFD", text)
    assert form == normalised(decomposed, ignore_case=case, ignore_final_period=period)
