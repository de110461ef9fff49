"""Rows of the embeddings that train beside a matrix that does not: lookup and logits from two tables.

The frozen table `E [V, d]` keeps its number format (float32, bf16); the rows `R [k, d]` that train are a parameter of
their own in float32. With `slot(i)` the place of token i among them,

    lookup   R[slot(i)] where i has a slot, else E[i]
    logits   h E^T, with the columns of the k tokens replaced by h R^T

so gradients and an optimiser's moments have k rows and not V. At first `R = E[ids]`: nothing changes.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.nn import functional

from adapt.errors import AdaptError


def columns(ids: torch.Tensor) -> slice | torch.Tensor:
    """An index of the columns `ids` (ascending): a slice where they follow one another, which is faster."""
    first, last = int(ids[0]), int(ids[-1])
    return slice(first, last + 1) if last - first + 1 == len(ids) else ids


class TwoTableEmbedding(nn.Embedding):
    """`R[slot(i)]` where token i has a slot, else `E[i]`, in the format of `E`; times the scale of Gemma's embeddings.

    `weight` is the table's own parameter. The row of a padding token gets a gradient like any other.
    """

    def __init__(self, table: nn.Embedding, rows: nn.Parameter, ids: torch.Tensor) -> None:
        super().__init__(*table.weight.shape, device="meta")
        self.weight, self.rows = table.weight, rows
        slots = torch.full(table.weight.shape[:1], -1, dtype=torch.long, device=ids.device)
        slots[ids] = torch.arange(len(ids), device=ids.device)
        self.register_buffer("slots", slots.to(table.weight.device), persistent=False)
        scale = getattr(table, "embed_scale", None)
        self.register_buffer("embed_scale", None if scale is None else torch.as_tensor(scale), persistent=False)

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """Vectors `[..., d]` of token ids `[...]`."""
        slots = self.slots[input]
        old = functional.embedding(input, self.weight)
        new = functional.embedding(slots.clamp(min=0), self.rows).to(old.dtype)
        found = torch.where((slots >= 0).unsqueeze(-1), new, old)
        return found if self.embed_scale is None else found * self.embed_scale.to(found)


class TwoTableHead(nn.Linear):
    """Logits `h E^T (+ b)` with the columns `ids` taken from `h R^T`. `weight` is the table's own parameter."""

    def __init__(self, table: nn.Linear, rows: nn.Parameter, ids: torch.Tensor) -> None:
        super().__init__(table.in_features, table.out_features, bias=False, device="meta")
        self.weight, self.rows = table.weight, rows
        self.bias = table.bias
        self.register_buffer("ids", ids.to(table.weight.device), persistent=False)
        self.columns = columns(ids)

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """Logits `[..., V]` of hidden states `[..., d]`."""
        new = functional.linear(input, self.rows.to(self.weight.dtype))
        if isinstance(self.columns, slice):
            before, after = self.weight[: self.columns.start], self.weight[self.columns.stop :]
            parts = [functional.linear(input, before), new, functional.linear(input, after)]
            logits = torch.cat([part for part in parts if part.shape[-1]], dim=-1)
        else:
            logits = functional.linear(input, self.weight).index_copy_(-1, self.ids, new)
        return logits if self.bias is None else logits + self.bias.to(logits)


def set_apart(model: Any, ids: torch.Tensor) -> tuple[nn.Parameter, ...]:
    """Replace a model's embeddings by two tables each, in place, and return the rows that train, `[k, d]` in float32.

    One parameter where input and output are tied, else that of the input and that of the output. The tables' own
    `requires_grad` is left as it is. Raises AdaptError for an embedding that is more than a lookup and a scale.
    """
    table, head = model.get_input_embeddings(), model.get_output_embeddings()
    rows = {}
    for module in (table, head):
        own = module.weight.detach()[ids.to(module.weight.device)].float().clone()
        rows.setdefault(id(module.weight), nn.Parameter(own))
    lookup = TwoTableEmbedding(table, rows[id(table.weight)], ids)
    if not table.weight.is_meta:
        _check_lookup(table, lookup, ids)
    model.set_input_embeddings(lookup)
    model.set_output_embeddings(TwoTableHead(head, rows[id(head.weight)], ids))
    return tuple(rows.values())


def _check_lookup(table: nn.Module, lookup: TwoTableEmbedding, ids: torch.Tensor) -> None:
    """Both give the same vectors, for rows of either kind."""
    probe = torch.cat([ids[:4].cpu(), torch.arange(min(4, table.weight.shape[0]))]).to(table.weight.device)
    with torch.no_grad():
        same = torch.equal(table(probe), lookup(probe))
    if not same:
        raise AdaptError(
            f"the input embedding of this model ({type(table).__name__}) is more than a lookup, so its rows cannot "
            "train by themselves; set train_embeddings to 'frozen' or 'whole'"
        )
