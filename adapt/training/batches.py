"""From rows of a stream to the tensors of a batch, also in the one-row form that FlashAttention wants."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from adapt.errors import AdaptError

if TYPE_CHECKING:
    import torch


def check_context(config: Any, name: str, length: int) -> None:
    """Raises AdaptError where sequences are longer than the model `name` has positions."""
    positions = getattr(config, "max_position_embeddings", None)
    if positions is not None and length > positions:
        raise AdaptError(
            f"sequence_length is {length}, but the model '{name}' has {positions} positions; "
            f"set sequence_length to at most {positions}"
        )


def pad_id(tokenizer: Any) -> int:
    """A token id to fill rows with; it never carries loss, so any will do where the tokenizer names none."""
    named = (tokenizer.pad_token_id, tokenizer.eos_token_id, 0)
    return next(token for token in named if token is not None)


def flatten(batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """All rows one after the other as a single row `[1, rows * length]`.

    FlashAttention finds the documents by their restarting positions only in a single row. The first label of a row is
    dropped, as it is when rows stand apart: nothing in the row predicts it.
    """
    labels = batch["labels"].clone()
    labels[:, 0] = -100
    return {name: tensor.reshape(1, -1) for name, tensor in {**batch, "labels": labels}.items()}


def collator(padding: int, flat: bool) -> Callable[[list[Any]], dict[str, torch.Tensor]]:
    """The function that makes a batch of a stream's rows."""
    from adapt.data.stream import collate

    def make(items: list[Any]) -> dict[str, torch.Tensor]:
        batch = collate(items, padding)
        return flatten(batch) if flat else batch

    return make


def first_batches(
    stream: Sequence[Any], collate: Callable[[list[Any]], dict[str, torch.Tensor]], size: int, count: int = 64
) -> Callable[[], Iterator[dict[str, torch.Tensor]]]:
    """A function that starts to read a stream from its first row: at most `count` batches of `size` rows."""

    def read() -> Iterator[dict[str, torch.Tensor]]:
        for start in range(0, min(len(stream), count * size), size):
            yield collate([stream[index] for index in range(start, min(start + size, len(stream)))])

    return read
