"""Forgetting and gain while a run goes on: bits per byte of held-out text, and the stability gap."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import torch

from adapt.checkpoints import probe_ids
from adapt.data.chat import sft_encoder
from adapt.data.documents import Objective, is_chat, is_pair
from adapt.data.pairs import answers
from adapt.data.sources import held_out_documents
from adapt.evaluation.bits_per_byte import bits_per_byte, evaluating
from adapt.mixture.domain import in_domain
from adapt.training.precision import Precision

if TYPE_CHECKING:
    from adapt.data.sources import Source
    from adapt.display import Display


PROBE_ROWS = 4
"""Rows of held-out text on which two copies of a model are compared."""


@dataclass(frozen=True)
class HeldOut:
    """Held-out documents of one source: plain texts, or conversations as rows of ids with what carries loss."""

    texts: tuple[str, ...] = ()
    conversations: tuple[Conversation, ...] = ()

    @classmethod
    def of(
        cls, documents: Iterable[Mapping[str, Any]], tokenizer: Any, objective: Objective, tokens: int, size: int
    ) -> HeldOut | None:
        """What can be measured in the documents, as the objective sees them; None where there is nothing.

        Conversations are cut to `tokens` tokens, texts to `size` characters. Of a pair it is the preferred answer.
        """
        found = [answers(document)[0] if is_pair(document) else document for document in documents]
        if objective != "causal_lm" and any(is_chat(document) for document in found):
            chats = [_conversation(document, tokenizer, tokens) for document in found if is_chat(document)]
            kept = tuple(chat for chat in chats if chat is not None)
            return cls(conversations=kept) if kept else None
        texts = tuple(document["text"][:size] for document in found if document.get("text"))
        return cls(texts=texts) if texts else None

    def bits_per_byte(self, model: Any, tokenizer: Any) -> float:
        """Bits per byte of the texts, or of what the assistant writes in the conversations."""
        if self.texts:
            return bits_per_byte(model, tokenizer, self.texts).value
        nats = sum(_answer_loss(model, chat.ids, chat.trained) for chat in self.conversations)
        return nats / math.log(2) / sum(chat.bytes for chat in self.conversations)


class Conversation(NamedTuple):
    """A conversation as tokens, which of them carry loss, and the bytes of text in these."""

    ids: list[int]
    trained: list[int]
    bytes: int


def _conversation(document: Mapping[str, Any], tokenizer: Any, limit: int) -> Conversation | None:
    encoded = sft_encoder(tokenizer)(dict(document))
    ids, trained = encoded.ids[:limit], list(encoded.trained or [1] * len(encoded.ids))[:limit]
    trained[0] = 0  # nothing predicts the first token
    answer = [token for token, marked in zip(ids, trained, strict=True) if marked]
    size = len(tokenizer.decode(answer, skip_special_tokens=True).encode())
    return Conversation(ids, trained, size) if size else None


def _answer_loss(model: Any, ids: list[int], trained: list[int]) -> float:
    """The summed loss in nats of the tokens that carry loss."""
    row = torch.tensor([ids], device=model.device)
    with evaluating(model), torch.no_grad():
        logits = model(input_ids=row, use_cache=False).logits[0, :-1].float()
    losses = torch.nn.functional.cross_entropy(logits, row[0, 1:], reduction="none").double()
    return float((losses * torch.tensor(trained[1:], device=losses.device)).sum())


@dataclass(frozen=True)
class Monitor:
    """Held-out documents of each source, read by the model as it stands."""

    sources: Mapping[str, HeldOut]
    tokenizer: Any
    precision: Precision

    def measure(self, model: Any) -> dict[str, float]:
        """Bits per byte of each source. Draws no random numbers and leaves the model as it was."""
        found = {}
        with self.precision.autocast():
            for name, held_out in self.sources.items():
                with in_domain(model, name):
                    found[name] = held_out.bits_per_byte(model, self.tokenizer)
        return found

    def probe(self, length: int, rows: int = PROBE_ROWS) -> torch.Tensor:
        """Token ids `[rows, length]` of held-out documents, or drawn from the vocabulary where these are too short."""
        ids: list[int] = []
        for held_out in self.sources.values():
            parts = [token for chat in held_out.conversations for token in chat.ids]
            text = "\n".join(held_out.texts)[: 32 * rows * length]
            ids += (parts + self.tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"])[: rows * length]
        if len(ids) < rows * length:
            return probe_ids(len(self.tokenizer), length)
        places = torch.linspace(0, len(ids) - length, rows).long().tolist()
        return torch.tensor([ids[place : place + length] for place in places])


def monitor_of(
    sources: Mapping[str, Source],
    tokenizer: Any,
    objective: Objective,
    tokens: int,
    size: int,
    precision: Precision,
    display: Display,
) -> Monitor:
    """A monitor of about `size` bytes of held-out text of each source, as the objective sees it; a line where there is
    none."""
    held_out = {}
    for name, source in sources.items():
        found = HeldOut.of(held_out_documents(source, size), tokenizer, objective, tokens, size)
        if found is None:
            display.line(f"  {name}: no held-out text to measure on; raise its held_out", style="yellow")
        else:
            held_out[name] = found
    return Monitor(held_out, tokenizer, precision)


def stability_gap(curve: Sequence[tuple[int, float]]) -> dict[str, float | int | None]:
    """How far a loss rose above its start, where it was highest, and where it was back (None: not in this run).

    `curve` are pairs (step, bits per byte) in order. Guo et al. 2025 call the rise and the recovery the stability gap.
    """
    start = curve[0][1]
    deepest, highest = max(curve, key=lambda point: point[1])
    back = next((step for step, value in curve if step > deepest and value <= start), None)
    depth = highest - start
    return {"depth": depth, "deepest_step": deepest, "recovered_step": curve[0][0] if depth <= 0 else back}


def source_numbers(events: Sequence[Mapping[str, Any]], source: str) -> dict[str, Any]:
    """Start, end, curve `[[tokens, bits per byte], ...]` and gap of one source, from the log's evaluations."""
    points = [(event["step"], event[source]) for event in events]
    return {
        "source": source,
        "start": points[0][1],
        "end": points[-1][1],
        "curve": [[event["tokens"], event[source]] for event in events],
        "stability_gap": stability_gap(points),
    }
