"""Which texts stand in some rows of a stream, for a message that names a batch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

_MOST = 4
"""Rows that are told one by one."""
_BEGINNING = 40
"""Characters of each."""


def told(stream: Sequence[Any], tokenizer: Any, rows: range) -> str:
    """`rows 8 to 9 (target: "Число 45 пишеться..."; general: "On 5 March...")`, rows counted from 0."""
    shown = [f'{_source(row)}"{_beginning(row, tokenizer)}"' for row in (stream[index] for index in rows[:_MOST])]
    more = [f"and {len(rows) - _MOST} more"] if len(rows) > _MOST else []
    return f"rows {rows[0]} to {rows[-1]} ({'; '.join(shown + more)})"


def _source(row: Any) -> str:
    return f"{row['source']}: " if "source" in row else ""


def _beginning(row: Any, tokenizer: Any) -> str:
    ids = row["input_ids"] if "input_ids" in row else row["chosen_ids"]
    text = " ".join(tokenizer.decode(ids[:_BEGINNING]).split())
    return text if len(text) <= _BEGINNING else f"{text[:_BEGINNING]}..."
