"""What a row of a source means: plain text, a conversation, a prompt with its completion, a pair of answers (TRL's)."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any, Literal

from adapt.errors import AdaptError

if TYPE_CHECKING:
    from adapt.data.sources.base import Place, Source

Document = dict[str, Any]
Objective = Literal["causal_lm", "sft", "dpo", "orpo"]
PREFERENCE: tuple[Objective, ...] = ("dpo", "orpo")
"""Objectives that learn from pairs of answers."""


def document_of(row: Mapping[str, Any], field: str | None, place: Place) -> Document:
    """The document in a row: what `field` holds, or what the row's own field names say.

    A row may hold both a `text` and `messages`; the objective then takes what it needs. An empty value (null) is an
    empty text. Raises AdaptError, with the place, for a row without such a field and for a value of another type.
    """
    if field is not None:
        if field not in row:
            raise AdaptError(f"{place}: no field '{field}'; {_fields(row, field)}")
        return _checked("messages" if isinstance(row[field], list) else "text", row[field], place, field)
    document: Document = {}
    if "text" in row:
        document |= _checked("text", row["text"], place, "text")
    if "messages" in row:
        document |= _checked("messages", row["messages"], place, "messages")
    elif "prompt" in row and "completion" in row:
        document |= _prompt_and_completion(row, place)
    if "chosen" in row and "rejected" in row:
        document |= _pair(row, place)
    if not document:
        raise AdaptError(
            f"{place}: the row has neither text nor messages nor prompt with completion, nor chosen and rejected; "
            f"name the field that holds the text with field:; {_fields(row, 'text')}"
        )
    if row.get("tools") and "text" not in document:
        document["tools"] = row["tools"]
    return document


def _fields(row: Mapping[str, Any], wanted: str) -> str:
    names = [str(name) for name in row]
    nearest = get_close_matches(wanted, names, n=1)
    hint = f" (did you mean '{nearest[0]}'?)" if nearest else ""
    return f"its fields are {', '.join(names) or 'none'}{hint}"


def _checked(kind: str, value: Any, place: Place, field: str) -> Document:
    if kind == "text":
        if value is None:
            return {"text": ""}
        if not isinstance(value, str):
            raise AdaptError(f"{place}: field '{field}' holds {_shown(value)}, not text or a list of messages")
        _check_characters(value, place, field)
        return {"text": value}
    _check_messages(value, place, field)
    return {"messages": value}


def _prompt_and_completion(row: Mapping[str, Any], place: Place) -> Document:
    pair = {name: row[name] for name in ("prompt", "completion")}
    plain = all(isinstance(value, str) for value in pair.values())
    for name, value in pair.items():
        (_check_characters if plain else _check_messages)(value, place, name)
    return pair


def _pair(row: Mapping[str, Any], place: Place) -> Document:
    """`prompt`, `chosen` and `rejected`. Two conversations have as prompt what both begin with, besides any other."""
    pair = {name: row[name] for name in ("prompt", "chosen", "rejected") if row.get(name) is not None}
    if not {"chosen", "rejected"} <= pair.keys():
        raise AdaptError(f"{place}: chosen and rejected must both hold an answer")
    if isinstance(pair["chosen"], list) and not isinstance(pair.get("prompt"), list):
        pair.pop("prompt", None)
    plain = all(isinstance(value, str) for value in pair.values())
    for name, value in pair.items():
        (_check_characters if plain else _check_messages)(value, place, name)
    return pair if "prompt" in pair else _split(pair, place)


def _split(pair: Document, place: Place) -> Document:
    both = zip(pair["chosen"], pair["rejected"], strict=False)
    shared = next((n for n, (one, other) in enumerate(both) if one != other), min(map(len, pair.values())))
    if isinstance(pair["chosen"], str) or not shared:
        raise AdaptError(f"{place}: chosen and rejected share no first message, so a prompt is needed beside them")
    return {"prompt": pair["chosen"][:shared], **{name: answer[shared:] for name, answer in pair.items()}}


def _check_messages(value: Any, place: Place, field: str) -> None:
    if not isinstance(value, list):
        raise AdaptError(f"{place}: field '{field}' holds {_shown(value)}, not a list of messages")
    for number, message in enumerate(value, 1):
        if not isinstance(message, dict) or not isinstance(message.get("role"), str):
            raise AdaptError(
                f"{place}: message {number} of '{field}' is {_shown(message)}; "
                "a message is a mapping with role and content"
            )
        if isinstance(message.get("content"), str):
            _check_characters(message["content"], place, field)


def _check_characters(text: str, place: Place, field: str) -> None:
    """JSON can escape half of a character (a lone surrogate), which no UTF-8 text has and no tokenizer takes."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise AdaptError(
            f"{place}: field '{field}' holds half a character, {text[error.start]!r} at position {error.start + 1}; "
            "repair or remove it"
        ) from error


def _shown(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= 60 else text[:57] + "..."


def content(document: Document) -> str:
    """What identifies a document: its text, or its messages as JSON with sorted keys."""
    if document.keys() == {"text"}:
        return document["text"]
    return json.dumps(document, sort_keys=True, ensure_ascii=False, default=str)


def is_chat(document: Document) -> bool:
    """Whether a document says which part of it an assistant wrote."""
    return "messages" in document or "completion" in document


def is_pair(document: Document) -> bool:
    """Whether a document holds two answers to a prompt, of which one is preferred."""
    return "chosen" in document


def mismatch(document: Document, objective: Objective) -> str | None:
    """Why the document cannot be trained on with the objective, or None where it can."""
    if objective in PREFERENCE:
        return None if is_pair(document) else _no_pair(document, objective)
    if is_pair(document) and "text" not in document and not is_chat(document):
        return f"objective {objective} learns from single texts, the documents hold pairs; use objective: dpo or orpo"
    if objective == "sft" and not is_chat(document):
        return (
            "objective sft needs conversations (messages, or prompt with completion), "
            "the documents are plain text; use objective: causal_lm"
        )
    if objective == "causal_lm" and "text" not in document:
        return f"objective causal_lm needs plain text, the documents hold {' and '.join(document)}; use objective: sft"
    return None


def _no_pair(document: Document, objective: Objective) -> str:
    fitting = "sft" if is_chat(document) else "causal_lm"
    return (
        f"objective {objective} needs pairs (prompt, chosen and rejected), "
        f"the documents hold {' and '.join(document)}; use objective: {fitting}"
    )


def objective_mismatch(source: Source, objective: Objective) -> str | None:
    """Why the source's first document does not fit the objective, or None where it does, or where that is not known.

    A source that is not there says so itself (`missing`), and a hub data set is not loaded for this.
    """
    if source.key == "dataset" or any(source.missing()):
        return None
    try:
        return next((mismatch(document, objective) for document in source.documents()), None)
    except AdaptError as error:
        return str(error)


def mismatches(sources: Mapping[str, Source], names: Iterable[str], objective: Objective) -> Iterator[str]:
    """Sources of the wrong kind for an objective, as far as the first document of a local file tells."""
    for name in names:
        if name in sources and sources[name].key == "files":
            try:
                message = objective_mismatch(sources[name], objective)
            except AdaptError:  # missing or unreadable: the source says so itself
                continue
            if message is not None:
                yield f"source '{name}': {message}"
