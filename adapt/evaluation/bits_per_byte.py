"""Bits per byte: how well a model predicts text, in a unit that does not depend on its tokenizer.

    BPB = (sum of token losses in nats) / (ln 2 * number of bytes predicted)

The loss of a token depends on how much text the token holds, so losses and perplexities of models with different
vocabularies cannot be compared; bits per byte can, if all models read the same text in the same pieces. Therefore a
document is cut into windows by bytes (on character borders), never by tokens, every window begins with the same kind
of token, and all of its bytes are predicted, the first as well.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from adapt.errors import AdaptError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

DEFAULT_WINDOW = 1024
_LOGIT_BUDGET = 512 * 2**20
"""Bytes that the logits of one batch may take, as float32."""
_LOSS_ROWS = 1024
"""Rows of logits that are in float32 at once."""


@dataclass(frozen=True, eq=False)
class BitsPerByte:
    """Bits and bytes of each document, in the order of the texts. float64 `[documents]` and int64 `[documents]`."""

    bits: np.ndarray
    bytes: np.ndarray

    @property
    def total_bits(self) -> float:
        """Bits of all documents."""
        return float(self.bits.sum())

    @property
    def total_bytes(self) -> int:
        """UTF-8 bytes of all documents; every one was predicted."""
        return int(self.bytes.sum())

    @property
    def value(self) -> float:
        """Bits per byte of all documents together."""
        return self.total_bits / self.total_bytes


@dataclass(frozen=True)
class _Window:
    document: int
    ids: list[int]


def context_of(config: Any) -> int | None:
    """The number of positions that a model of this configuration knows, or None where it names none."""
    return getattr(config.get_text_config(), "max_position_embeddings", None)


def window_for(context: int | None) -> int:
    """The default window in bytes for a model with so many positions.

    A token of a byte-level vocabulary holds at least one byte, and one position goes to the first token, so such a
    window always fits. To compare models, take the smallest of their windows.
    """
    return DEFAULT_WINDOW if context is None else min(DEFAULT_WINDOW, context - 1)


def byte_windows(text: str, size: int) -> Iterator[bytes]:
    """Cut a text into pieces of at most `size` UTF-8 bytes, never inside a character. `size` is at least 4."""
    data = text.encode("utf-8")
    start = 0
    while start < len(data):
        end = min(start + size, len(data))
        while end < len(data) and data[end] & 0xC0 == 0x80:  # 10xxxxxx goes on with a character
            end -= 1
        yield data[start:end]
        start = end


def first_token(tokenizer: PreTrainedTokenizerBase) -> int:
    """The token from which a text's first token is predicted: `bos`, else `eos`. Raises AdaptError without either."""
    for token in (tokenizer.bos_token_id, tokenizer.eos_token_id):
        if token is not None:
            return token
    raise AdaptError(
        f"the tokenizer '{tokenizer.name_or_path}' has neither a bos nor an eos token, so nothing predicts a text's "
        "first byte; set one of them in its tokenizer_config.json"
    )


def bits_per_byte(
    model: Any,
    tokenizer: PreTrainedTokenizerBase,
    texts: Iterable[str],
    *,
    window_bytes: int | None = None,
    batch_tokens: int | None = None,
) -> BitsPerByte:
    """Bits per byte of each text under a causal language model.

    Each window of `window_bytes` (default: `window_for` the model's context) stands alone: first token, then the
    window's tokens, every one of which is predicted. Windows of like length share a batch of at most `batch_tokens`
    positions (default: what suits the processor), padded on the right. The model may be quantised or a peft model; its
    modes are restored and no random numbers are drawn, so a call in the middle of a training run leaves no trace.

    Raises AdaptError where there is nothing to predict or where a window does not fit the model's context.
    """
    documents = [text.encode("utf-8", "replace").decode("utf-8") for text in texts]  # lone surrogates have no bytes
    size = window_for(context_of(model.config)) if window_bytes is None else window_bytes
    if size < 4:
        raise AdaptError(f"window_bytes is {size}, but one character can take 4 bytes")
    lengths = np.array([len(text.encode("utf-8")) for text in documents], dtype=np.int64)
    if not lengths.sum():
        raise AdaptError(f"bits per byte: the {len(documents)} documents hold no text")
    windows = _tokenized(tokenizer, documents, size)
    _check_fits(max(len(window.ids) for window in windows), context_of(model.config), size)
    bits = np.zeros(len(documents), dtype=np.float64)
    with evaluating(model), torch.no_grad():
        for batch in _batches(windows, _positions(model, batch_tokens)):
            for window, nats in zip(batch, _losses(model, [window.ids for window in batch]), strict=True):
                bits[window.document] += nats / math.log(2)
    return BitsPerByte(bits, lengths)


def _tokenized(tokenizer: PreTrainedTokenizerBase, documents: Sequence[str], size: int) -> list[_Window]:
    pieces = [
        (index, piece.decode("utf-8")) for index, text in enumerate(documents) for piece in byte_windows(text, size)
    ]
    first = first_token(tokenizer)
    encoded = tokenizer([piece for _, piece in pieces], add_special_tokens=False, verbose=False)["input_ids"]
    return [_Window(index, [first, *ids]) for (index, _), ids in zip(pieces, encoded, strict=True)]


def _check_fits(longest: int, context: int | None, size: int) -> None:
    if context is not None and longest > context:
        raise AdaptError(
            f"a window of {size} bytes takes {longest} tokens, but the model has {context} positions; "
            f"set window_bytes to at most {size * context // longest}"
        )


def _positions(model: Any, batch_tokens: int | None) -> int:
    """Positions in a batch, so that its logits stay within the budget; by default few on a CPU, for its caches."""
    if batch_tokens is None:
        batch_tokens = 1024 if model.device.type == "cpu" else 16384
    head = model.get_output_embeddings()
    rows = head.weight.shape[0] if head is not None else 0  # none where a process holds a part only (ZeRO's stage 3)
    width = rows or model.config.get_text_config().vocab_size
    return max(1, min(batch_tokens, _LOGIT_BUDGET // (4 * width)))


def _batches(windows: Sequence[_Window], positions: int) -> Iterator[list[_Window]]:
    """Windows sorted by length, in groups whose padded size stays within `positions` (at least one a group)."""
    group: list[_Window] = []
    for window in sorted(windows, key=lambda window: (len(window.ids), window.document)):
        if group and len(window.ids) * (len(group) + 1) > positions:
            yield group
            group = []
        group.append(window)
    if group:
        yield group


def _losses(model: Any, rows: Sequence[Sequence[int]]) -> np.ndarray:
    """The summed loss of each row's tokens after its first, in nats, float64 `[rows]`."""
    longest = max(map(len, rows))
    ids = torch.zeros(len(rows), longest, dtype=torch.long)
    mask = torch.zeros_like(ids)
    for index, row in enumerate(rows):
        ids[index, : len(row)] = torch.tensor(row)
        mask[index, : len(row)] = 1
    ids, mask = ids.to(model.device), mask.to(model.device)
    logits = model(input_ids=ids, attention_mask=mask, use_cache=False).logits[:, :-1].flatten(0, 1)
    targets = ids[:, 1:].flatten().to(logits.device)
    losses = [
        torch.nn.functional.cross_entropy(
            logits[start : start + _LOSS_ROWS].float(), targets[start : start + _LOSS_ROWS], reduction="none"
        )
        for start in range(0, len(targets), _LOSS_ROWS)
    ]
    nats = torch.cat(losses).view(len(rows), -1).double() * mask[:, 1:].to(logits.device)
    return nats.sum(dim=1).cpu().numpy()


@contextmanager
def evaluating(model: torch.nn.Module) -> Iterator[None]:
    """Evaluation mode, and each module's own mode again at the end."""
    # not inference_mode: buffers that a model caches in its forward would then be unusable in training
    training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        yield
    finally:
        for module in training:
            module.training = True
