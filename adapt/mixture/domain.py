"""Texts whose source is known, read by a model that may hold a mixture."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any


def in_domain(model: Any, source: str) -> AbstractContextManager[None]:
    """For the length of the block, batches are of the domain of a source, where the model has gates that know it."""
    routing = getattr(getattr(model, "adapt_mixture", None), "routing", None)
    return routing.naming(source) if routing is not None and source in routing.known else nullcontext()
