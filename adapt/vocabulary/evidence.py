"""What a model and text say of new pieces, for initialisations that look at more than a piece's parts.

Everything is computed when it is first asked for, and then kept.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from adapt.vocabulary.direction import ConstantDirection

TEXT = 5_000_000
"""Bytes of text that are looked at."""
_ONE_BYTE = re.compile(r"<0x[0-9A-Fa-f]{2}>")


@dataclass
class Evidence:
    """A model that is being grown, its tokenizers before and after, and text in the language of the new pieces.

    `model` already has the new rows' places; with old ids its input side is what it was. `corpus()` begins the training
    texts anew, `held_out` are the texts by source on which bits per byte are measured (it may be empty). `general` is
    the one among these sources that the new pieces are not for; all others are the target.
    """

    model: PreTrainedModel
    old: PreTrainedTokenizerBase
    new: PreTrainedTokenizerBase
    corpus: Callable[[], Iterable[str]]
    held_out: Mapping[str, Sequence[str]]
    size: int = TEXT
    general: str | None = None

    @cached_property
    def texts(self) -> list[str]:
        """The first `size` bytes of the corpus, whole documents."""
        from adapt.vocabulary.words import up_to

        return list(up_to(self.corpus(), self.size))

    @cached_property
    def old_ids(self) -> list[list[int]]:
        """The texts as the old tokenizer cuts them, without special tokens."""
        return _encoded(self.old, self.texts)

    @cached_property
    def new_ids(self) -> list[list[int]]:
        """The texts as the new tokenizer cuts them, without special tokens."""
        return _encoded(self.new, self.texts)

    @cached_property
    def old_counts(self) -> torch.Tensor:
        """How often each old id occurs in the texts, `[rows]`."""
        return self._counts(self.old_ids)

    @cached_property
    def new_counts(self) -> torch.Tensor:
        """How often each id, old or new, occurs in the texts, `[rows]`."""
        return self._counts(self.new_ids)

    @cached_property
    def piece_bytes(self) -> torch.Tensor:
        """How many bytes of text each old id stands for, `[ids]`."""
        import torch

        known = self.old.get_vocab()
        in_alphabet = "<0x00>" not in known  # SentencePiece writes text itself, and bytes as <0x..>
        lengths = torch.zeros(max(known.values(), default=-1) + 1, dtype=torch.long)
        for piece, index in known.items():
            lengths[index] = len(piece) if in_alphabet else _bytes_of(piece)
        return lengths

    @cached_property
    def direction(self) -> ConstantDirection:
        """The direction in which the model's hidden states on the texts are alike."""
        from adapt.evaluation.bits_per_byte import first_token
        from adapt.vocabulary.direction import constant_direction, hidden_states

        with on_accelerator(self.model):
            hidden = hidden_states(self.model, self.old_ids, first_token(self.old))
        return constant_direction(hidden)

    def _counts(self, documents: Sequence[Sequence[int]]) -> torch.Tensor:
        import torch

        flat = torch.tensor([index for ids in documents for index in ids], dtype=torch.long)
        return torch.bincount(flat, minlength=self.model.get_input_embeddings().weight.shape[0])


@contextmanager
def on_accelerator(model: PreTrainedModel) -> Iterator[None]:
    """The model on the GPU, where there is one, and at the end where it was."""
    import torch

    home = model.device
    model.to("cuda" if torch.cuda.is_available() else home)
    try:
        yield
    finally:
        model.to(home)


def _bytes_of(piece: str) -> int:
    """Bytes of text behind a piece of SentencePiece: `<0xE3>` is one, `▁` is a space."""
    return 1 if _ONE_BYTE.fullmatch(piece) else len(piece.replace("▁", " ").encode("utf-8"))


def _encoded(tokenizer: PreTrainedTokenizerBase, texts: Sequence[str]) -> list[list[int]]:
    return [
        encoding.ids for encoding in tokenizer.backend_tokenizer.encode_batch(list(texts), add_special_tokens=False)
    ]
