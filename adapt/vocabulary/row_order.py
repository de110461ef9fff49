"""A model's rows and ids after its tokenizer's ids were closed up, and padding below the last row."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from adapt.errors import AdaptError

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

_TOKEN_ID = re.compile(r"(^|_)(token_ids?|token_index)$|^(begin_)?suppress_tokens$")


def padded(height: int, multiple: int | None) -> int:
    """The smallest multiple that is no less than `height`."""
    return height if multiple is None else -(-height // multiple) * multiple


def arrange_rows(
    model: PreTrainedModel, order: Sequence[int] | None, multiple: int | None, ordinary: torch.Tensor
) -> None:
    """Make row i what row `order[i]` was, and fill up to a multiple of `multiple` rows; in place.

    Without an order all rows stay where they are. Rows are moved bit for bit, input, output and output bias alike.
    A padding row is the mean of the rows `ordinary` `[n]`: its logit is the mean of theirs, so it never wins. (Zeros
    would: a model's logits may all be negative.)
    """
    height = model.get_input_embeddings().weight.shape[0]
    if order is None and padded(height, multiple) == height:
        return
    rows = range(height) if order is None else order
    kept = [_rows(weight, rows, padded(len(rows), multiple), ordinary) for weight in _weights(model)]
    model.resize_token_embeddings(len(kept[0]), mean_resizing=False)
    after = list(_weights(model))
    if [weight.shape for weight in after] != [weight.shape for weight in kept]:
        raise AdaptError(f"{type(model).__name__} did not take {len(kept[0])} embedding rows (it has {height})")
    for weight, values in zip(after, kept, strict=True):
        weight.data.copy_(values)


def _weights(model: PreTrainedModel) -> Iterator[torch.nn.Parameter]:
    """The tensors with a row for each token, each once."""
    embedding, head = model.get_input_embeddings(), model.get_output_embeddings()
    yield embedding.weight
    if head.weight is not embedding.weight:
        yield head.weight
    if getattr(head, "bias", None) is not None:
        yield head.bias


def _rows(weight: torch.Tensor, rows: Sequence[int], height: int, ordinary: torch.Tensor) -> torch.Tensor:
    import torch

    found = weight.detach()[torch.tensor(list(rows), device=weight.device)]
    if height == len(found):
        return found
    mean = weight.detach()[ordinary.to(weight.device)].float().mean(0, keepdim=True).to(weight.dtype)
    return torch.cat([found, mean.expand(height - len(found), *mean.shape[1:])])


def token_ids(settings: Any) -> Iterator[tuple[Any, str, Any]]:
    """Each id, or list of ids, in a model's configuration: the (inner) configuration, the key, the value."""
    for key, value in vars(settings).items():
        if hasattr(value, "to_dict"):
            yield from token_ids(value)
        elif _TOKEN_ID.search(key) and value is not None:
            yield settings, key, value


def ids_in_use(model: PreTrainedModel) -> set[int]:
    """The ids that the configuration and the generation settings name."""
    found: set[int] = set()
    for settings in _settings(model):
        for _, _, value in token_ids(settings):
            found.update(value if isinstance(value, (list, tuple)) else [value])
    return found


def follow_ids(model: PreTrainedModel, place: Mapping[int, int]) -> list[str]:
    """Write the new ids into the configuration and the generation settings; `place` is the new id of each old one.

    Returns, in words, what named an id that no token has any more: such a single id becomes None, and a list loses
    it. Negative ids stand for no token and stay.
    """
    warnings = []
    for settings in _settings(model):
        for owner, key, value in list(token_ids(settings)):
            ids = value if isinstance(value, (list, tuple)) else [value]
            lost = [index for index in ids if index >= 0 and index not in place]
            moved = [place.get(index, index) for index in ids if index not in lost]
            setattr(owner, key, moved if isinstance(value, (list, tuple)) else next(iter(moved), None))
            warnings += [f"{key} was {index}, which is no token any more" for index in lost]
    return list(dict.fromkeys(warnings))


def _settings(model: PreTrainedModel) -> list[Any]:
    return [found for found in (model.config, getattr(model, "generation_config", None)) if found is not None]
