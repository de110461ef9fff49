"""The keys `tokenizer` and `tokenizer_source`: whose tokens the output has, and what rows of single tokens are."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from merge.yaml_files.document import Entry
from merge.yaml_files.references import Reference, read_reference


@dataclass(frozen=True)
class TokenRule:
    """Where the row of one token comes from: a model's row of the same token, of another one, or zero (no model).

    With `force` the models that have the token take that row, too.
    """

    model: Reference | None
    token: str | None
    index: int | None
    given: bool
    force: bool
    entry: Entry


@dataclass(frozen=True)
class TokenizerRule:
    """`source` is `base`, `union` or a model; `tokens` are rules by token, `multiple` what the rows are padded to."""

    source: Reference | str
    tokens: Mapping[str, TokenRule]
    multiple: int | None
    entry: Entry


def read_tokenizer_rule(given: Mapping[str, Entry]) -> TokenizerRule | None:
    """What a file says of the tokenizer, None if nothing. Raises YamlError for anything else."""
    if "tokenizer" not in given:
        old = given.get("tokenizer_source")
        return None if old is None else TokenizerRule(_source(old, "tokenizer_source"), {}, None, old)
    entry = given["tokenizer"]
    if "tokenizer_source" in given:
        raise entry.fail("the file has one of 'tokenizer' and 'tokenizer_source'")
    found = entry.fields("tokenizer", ("source", "tokens", "pad_to_multiple_of"))
    tokens = found["tokens"].mapping("tokens") if "tokens" in found else {}
    multiple = found.get("pad_to_multiple_of")
    if multiple is not None and (type(multiple.value) is not int or multiple.value < 1):
        raise multiple.fail(f"pad_to_multiple_of is {multiple.shown}; it is a whole number at or above 1")
    source = _source(found["source"], "source") if "source" in found else "union"
    rules = {token: _token(token, item) for token, item in tokens.items()}
    return TokenizerRule(source, rules, None if multiple is None else multiple.value, entry)


def _source(entry: Entry, what: str) -> Reference | str:
    return entry.value if entry.value in ("base", "union") else read_reference(entry, what)


def _token(token: str, entry: Entry) -> TokenRule:
    what = f"the rule of '{token}'"
    given = entry.fields(what, ("source", "force"))
    force = given["force"].value if "force" in given else False
    if not isinstance(force, bool):
        raise given["force"].fail(f"force is {given['force'].shown}; it is true or false")
    source = given.get("source")
    if source is None:
        return TokenRule(None, None, None, False, force, entry)
    if not isinstance(source.value, dict):
        return TokenRule(read_reference(source, "source"), None, None, True, force, source)
    parts = source.fields("source", ("kind", "model", "token", "token_id"), ("kind",))
    kind = parts["kind"].value
    if kind == "zero":
        return TokenRule(None, None, None, True, force, source)
    if kind != "model_token":
        raise parts["kind"].fail(f"kind is {parts['kind'].shown}; it is model_token or zero")
    if "model" not in parts or ("token" in parts) == ("token_id" in parts):
        raise source.fail("a source of kind model_token has a model and one of 'token' and 'token_id'")
    index = parts["token_id"].value if "token_id" in parts else None
    if index is not None and (type(index) is not int or index < 0):
        raise parts["token_id"].fail(f"token_id is {parts['token_id'].shown}; it is a row, from 0")
    name = parts["token"].text("token") if "token" in parts else None
    return TokenRule(read_reference(parts["model"], "model"), name, index, True, force, source)
