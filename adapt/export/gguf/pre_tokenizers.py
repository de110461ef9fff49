"""Which pre-tokenizer of llama.cpp cuts text as a `tokenizer.json` does.

llama.cpp knows pre-tokenizers by name and has their rules built in. Converters find the name by a hash of how a text is
tokenised, which a grown vocabulary changes; here the rules themselves are compared.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from adapt.errors import AdaptError

_WORDS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+"
_SIGNS = r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_UPPER, _LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
_CASED = rf"[^\r\n\p{{L}}\p{{N}}]?{_UPPER}*{_LOWER}+|[^\r\n\p{{L}}\p{{N}}]?{_UPPER}+{_LOWER}*"
_CASED_SIGNS = r" ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
Rules = tuple[tuple[str, Any], ...]


class Family(NamedTuple):
    """A pre-tokenizer: its rules, and whether a piece that is in the vocabulary whole is taken before any merge."""

    rules: Rules
    ignore_merges: bool = False


def _split(regex: str) -> Rules:
    return (("split", regex), ("bytes", False))


FAMILIES = {
    "gpt-2": Family((("bytes", True),)),
    "smollm": Family((("digits", True), ("bytes", True))),
    "qwen2": Family(_split(rf"{_WORDS}|\p{{N}}|{_SIGNS}")),
    "llama-bpe": Family(_split(rf"{_WORDS}|\p{{N}}{{1,3}}|{_SIGNS}"), ignore_merges=True),
    "tekken": Family(_split(rf"{_CASED}|\p{{N}}|{_CASED_SIGNS}"), ignore_merges=True),
}
"""llama.cpp's names. `bytes` is the byte alphabet, with GPT-2's rule for words or without."""


def rules_of(document: Mapping[str, Any]) -> Rules | None:
    """The pre-tokenizer of a `tokenizer.json` in the terms of the table; None for one that does something else."""
    part = document.get("pre_tokenizer") or {}
    steps = part.get("pretokenizers", [part])
    found = [_rule(step) for step in steps]
    return None if None in found else tuple(rule for rule in found if rule is not None)


def _rule(step: Mapping[str, Any]) -> tuple[str, Any] | None:
    if step.get("type") == "ByteLevel" and not step.get("add_prefix_space"):
        return "bytes", bool(step.get("use_regex", True))
    if step.get("type") == "Digits":
        return "digits", bool(step.get("individual_digits"))
    if step.get("type") == "Split" and step.get("behavior") == "Isolated" and not step.get("invert"):
        return "split", (step.get("pattern") or {}).get("Regex")
    return None


def name_of(document: Mapping[str, Any], asked: str | None) -> str:
    """llama.cpp's name for the pre-tokenizer: the one `asked` for, or the one with the same rules.

    Raises AdaptError where no rules are the same, and where the family takes whole pieces (ignore_merges) and the
    tokenizer does not, or the other way round.
    """
    rules, known = rules_of(document), ", ".join(FAMILIES)
    name = asked or next((name for name, family in FAMILIES.items() if family.rules == rules), None)
    if name is None:
        raise AdaptError(
            f"GGUF: the tokenizer's pre_tokenizer is none that is known by its rules ({known}); set "
            "gguf.pre_tokenizer to llama.cpp's name for it"
        )
    whole = bool(document["model"].get("ignore_merges"))
    if name in FAMILIES and FAMILIES[name].ignore_merges != whole:
        raise AdaptError(
            f"GGUF: llama.cpp's '{name}' has ignore_merges {_word(not whole)}, the tokenizer {_word(whole)}; text "
            "would be cut differently"
        )
    return name


def _word(value: bool) -> str:
    return str(value).lower()


def warnings(document: Mapping[str, Any]) -> list[str]:
    """What llama.cpp does not do to text before it is cut."""
    kind = (document.get("normalizer") or {}).get("type")
    if kind is None:
        return []
    return [f"the tokenizer normalises text ({kind}), llama.cpp does not; give it text in that form"]
