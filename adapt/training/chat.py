"""The token with which an assistant's turn ends, so that a tuned model stops where it was taught to."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from adapt.display import Display

_PROBE = "x"
_STOP_ROWS = 64
"""Rows of the stream that are searched for the token that ends a turn."""


def stop_token(tokenizer: Any) -> int | None:
    """The last special token of a finished assistant turn in the model's chat template; None without a template.

    For ChatML this is `<|im_end|>`, for Llama-3 `<|eot_id|>`, for Gemma `<end_of_turn>`, for Mistral `</s>`.
    """
    if not tokenizer.chat_template:
        return None
    turns = [{"role": "user", "content": _PROBE}, {"role": "assistant", "content": _PROBE}]
    text = tokenizer.apply_chat_template(turns, tokenize=False)
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    special = set(tokenizer.added_tokens_decoder) | set(tokenizer.all_special_ids)
    return next((token for token in reversed(ids) if token in special), tokenizer.eos_token_id)


def stop_ids(tokenizer: Any) -> tuple[int, ...]:
    """The ids that end an answer, for the generation settings: the template's stop token, then the tokenizer's eos."""
    found = (stop_token(tokenizer), tokenizer.eos_token_id)
    return tuple(dict.fromkeys(token for token in found if token is not None))


def is_trained(token: int, rows: Iterable[dict[str, Any]]) -> bool:
    """Whether a token carries loss anywhere in the rows of a stream."""
    return any(token in list(row["labels"]) for row in rows)


def stop_numbers(tokenizer: Any, stream: Sequence[Any], display: Display) -> dict[str, Any]:
    """The token that ends an assistant's turn, and whether the model is trained to write it; a warning where not."""
    stop = stop_token(tokenizer)
    if stop is None:
        return {"token": None, "trained": False}
    trained = is_trained(stop, (stream[index] for index in range(min(len(stream), _STOP_ROWS))))
    text = tokenizer.convert_ids_to_tokens(stop)
    if not trained:
        display.line(f"  The model is not trained to end its turn: '{text}' carries no loss.", style="yellow")
    return {"token": text, "id": stop, "trained": trained}
