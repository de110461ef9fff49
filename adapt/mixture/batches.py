"""Batches that say which adapter each token's text is for."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch

Collate = Callable[[list[Any]], dict[str, torch.Tensor]]


def with_domains(collate: Collate, places: Mapping[str, int]) -> Collate:
    """`collate` with `domains` (the adapter's place by the row's source, -1 for none) and `valid` (no padding) beside.

    Both have the shape of `input_ids`, also where all rows are one after the other in a single one.
    """

    def make(items: list[Any]) -> dict[str, torch.Tensor]:
        batch = collate(items)
        lengths = [len(item["input_ids"]) for item in items]
        domains = torch.full((len(items), max(lengths)), -1)
        valid = torch.zeros(len(items), max(lengths), dtype=torch.bool)
        for row, (item, length) in enumerate(zip(items, lengths, strict=True)):
            domains[row, :length] = places.get(item.get("source", ""), -1)
            valid[row, :length] = True
        shape = batch["input_ids"].shape
        return {**batch, "domains": domains.reshape(shape), "valid": valid.reshape(shape)}

    return make
