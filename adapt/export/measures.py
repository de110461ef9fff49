"""How far a written model is from the one that it stands for: KL per token, equal first choices, bits per byte.

The model as it trained reads held-out text once; the logarithms of its probabilities lie on the disk, a file for each
window of text, while the written models are in memory one after the other.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from adapt.checkpoints import probe_ids
from adapt.evaluation.bits_per_byte import byte_windows, context_of, evaluating, first_token, window_for

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from adapt.data.sources import Source


@dataclass(frozen=True)
class Window:
    """Token ids, and which of them are predicted from those before (1 or 0, the first is 0)."""

    ids: Sequence[int]
    counted: Sequence[int]


@dataclass(frozen=True)
class Text:
    """Held-out text as tokens; `bytes` are those of the predicted tokens, 0 for tokens that stand for no text."""

    windows: tuple[Window, ...]
    bytes: int


def held_out_text(source: Source, tokenizer: PreTrainedTokenizerBase, config: Any, size: int) -> Text | None:
    """The first `size` bytes of a source's held-out part, of conversations the answers; None where there is nothing."""
    from adapt.data.documents import is_chat
    from adapt.data.sources import held_out_documents
    from adapt.training.monitor import HeldOut

    documents, context = list(held_out_documents(source, size)), context_of(config)
    objective = "sft" if any(is_chat(document) for document in documents) else "causal_lm"
    found = HeldOut.of(documents, tokenizer, objective, context or size, size)
    if found is None:
        return None
    if found.conversations:
        windows = tuple(Window(chat.ids, chat.trained) for chat in found.conversations)
        return Text(windows, sum(chat.bytes for chat in found.conversations))
    pieces = [piece.decode() for text in found.texts for piece in byte_windows(text, window_for(context))]
    first, encoded = first_token(tokenizer), tokenizer(pieces, add_special_tokens=False, verbose=False)["input_ids"]
    rows = tuple(Window([first, *ids], [0, *[1] * len(ids)]) for ids in encoded)
    return Text(rows, sum(len(text.encode("utf-8", "replace")) for text in found.texts))


def drawn_text(vocabulary_size: int, context: int | None) -> Text:
    """Token ids drawn over the whole vocabulary: they stand for no text, but two models can be compared on them."""
    rows = probe_ids(vocabulary_size, min(48, context or 48)).tolist()
    return Text(tuple(Window(row, [0, *[1] * (len(row) - 1)]) for row in rows), 0)


@dataclass(frozen=True)
class Reference:
    """What the live model says of a text, as log-probabilities on the disk."""

    text: Text
    folder: Path
    bits_per_byte: float | None

    @classmethod
    def of(
        cls, model: Any, text: Text, folder: Path, computing: AbstractContextManager[Any] | None = None
    ) -> Reference:
        """Read the text with the live model; `computing` is the context in which it trained."""
        from safetensors.torch import save_file

        folder.mkdir(parents=True, exist_ok=True)
        nats = 0.0
        with evaluating(model), computing or nullcontext():
            for index, window in enumerate(text.windows):
                logs = log_probabilities(model, window)
                nats += _nats(logs, window)
                save_file({"logs": logs}, folder / f"{index}.safetensors")
        return cls(text, folder, _bits(nats, text))

    def compare(self, model: Any) -> dict[str, float]:
        """Mean `KL(live || written)` in nats, the share of tokens with the same first choice, bits per byte."""
        from safetensors.torch import load_file

        divergence = agreed = nats = 0.0
        count = 0
        with evaluating(model):
            for index, window in enumerate(self.text.windows):
                live = load_file(self.folder / f"{index}.safetensors")["logs"]
                written = log_probabilities(model, window)
                divergence += float((live.exp() * (live - written)).sum(-1).double().sum())
                agreed += float((live.argmax(-1) == written.argmax(-1)).sum())
                nats, count = nats + _nats(written, window), count + len(live)
        numbers = {"kl": max(0.0, divergence / count), "top1_agreement": agreed / count}
        bits = _bits(nats, self.text)
        return numbers if bits is None else numbers | {"bits_per_byte": bits}


def log_probabilities(model: Any, window: Window) -> torch.Tensor:
    """Log-probabilities `[predicted tokens, vocabulary]` of the tokens that count, in float32 on the CPU."""
    ids = torch.tensor([list(window.ids)], device=model.device)
    counted = torch.tensor(window.counted[1:], dtype=torch.bool)
    with torch.no_grad():
        logits = model(input_ids=ids, use_cache=False).logits[0, :-1]
    return logits[counted.to(logits.device)].float().log_softmax(-1).cpu()


def _nats(logs: torch.Tensor, window: Window) -> float:
    targets = torch.tensor([token for token, counts in zip(window.ids, window.counted, strict=True) if counts])
    return -float(logs.gather(1, targets[:, None]).double().sum())


def _bits(nats: float, text: Text) -> float | None:
    return nats / math.log(2) / text.bytes if text.bytes else None


def closest(measured: Mapping[str, Mapping[str, float]]) -> str:
    """The written model with the least divergence from the live one; of equal ones the first."""
    return min(measured, key=lambda name: measured[name]["kl"])
