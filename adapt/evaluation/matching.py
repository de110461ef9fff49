"""When two answers count as the same."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable


def normalised(text: str, *, ignore_case: bool = False, ignore_final_period: bool = True) -> str:
    """The form in which answers are compared: Unicode NFC, runs of white space as one space, none at the ends.

    Optionally without one final period (also `。` and `।`), and case-folded.
    """
    text = " ".join(unicodedata.normalize("NFC", text).split())
    if ignore_final_period and text.endswith((".", "。", "।")):
        text = text[:-1].rstrip()
    return unicodedata.normalize("NFC", text.casefold()) if ignore_case else text


def matches(
    answer: str, accepted: Iterable[str], *, ignore_case: bool = False, ignore_final_period: bool = True
) -> bool:
    """Whether the answer, normalised, equals one of the accepted ones, normalised."""

    def form(text: str) -> str:
        return normalised(text, ignore_case=ignore_case, ignore_final_period=ignore_final_period)

    return form(answer) in {form(text) for text in accepted}
