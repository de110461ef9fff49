"""The longest batch goes first, and leaves no trace."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from adapt.methods.lora import Lora
from adapt.training import rehearsal
from adapt.training.rehearsal import longest_batch
from tests.training.workshop import Rows, equal, make_run, weights


class Uneven(Rows):
    """The first rows are short."""

    def row_sizes(self):
        sizes = np.full(1000, 16)
        sizes[7] = 32
        return sizes

    def __getitem__(self, index):
        row = super().__getitem__(index)
        return row


def test_longest_batch():
    assert longest_batch(Uneven.__new__(Uneven), 2, 10) == 3
    assert longest_batch(Uneven.__new__(Uneven), 2, 3) is None, "it is not in the run"
    assert longest_batch(Uneven.__new__(Uneven), 8, 10) is None, "it is the first"
    assert longest_batch([1, 2], 2, 1) is None, "lengths are not known"


def test_a_rehearsal_changes_nothing(tmp_path, tiny_model_folder, monkeypatch):
    trained, losses = [], []
    for name in ("with", "without"):
        run = make_run(tiny_model_folder, tmp_path / name, Lora(r=2, dropout=0.1), steps=4)
        run.stream = Uneven(run.tokenizer)
        if name == "without":
            monkeypatch.setattr(rehearsal, "longest_batch", lambda *arguments: None)
        torch.manual_seed(5)
        run.execute()
        trained.append(weights(run))
        losses.append([line["loss"] for line in run.log.read("train")])
    assert equal(*trained)
    assert losses[0] == losses[1]


def test_out_of_memory_shows_before_the_first_step(tmp_path, tiny_model_folder):
    run = make_run(tiny_model_folder, tmp_path, Lora(r=2), steps=6)
    run.stream = Uneven(run.tokenizer)
    plain, seen = run.collate, []

    def collate(items):
        seen.append(items[0]["input_ids"] == run.stream[6]["input_ids"])
        if seen[-1]:
            raise MemoryError
        return plain(items)

    run.collate = collate
    with pytest.raises(MemoryError):
        run.execute()
    assert seen == [True], "no batch went before the longest"
