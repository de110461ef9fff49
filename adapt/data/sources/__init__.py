"""The kinds of source; adding one is a file and a line in the table. Which kind a source is shows in its own key."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Union

from pydantic import Discriminator, Tag

from adapt.data.sources.base import Place, Source, held_out_documents, is_held_out, training_documents
from adapt.data.sources.files import Files
from adapt.data.sources.generator import Generator
from adapt.data.sources.hub import HubDataset

SOURCES = (Files, HubDataset, Generator)
KEYS = tuple(kind.key for kind in SOURCES)


def kind_of(value: Any) -> str | None:
    """The one key among `files`, `dataset`, `generator` that a source has; None where it has none or several."""
    if isinstance(value, Source):
        return value.key
    present = [key for key in KEYS if isinstance(value, Mapping) and key in value]
    return present[0] if len(present) == 1 else None


AnySource = Annotated[
    Union[tuple(Annotated[kind, Tag(kind.key)] for kind in SOURCES)],  # noqa: UP007 (a table, not a list of names)
    Discriminator(
        kind_of,
        custom_error_type="source",
        custom_error_message=f"a source has exactly one of the keys {', '.join(KEYS)}",
    ),
]

__all__ = [
    "KEYS",
    "SOURCES",
    "AnySource",
    "Files",
    "Generator",
    "HubDataset",
    "Place",
    "Source",
    "held_out_documents",
    "is_held_out",
    "kind_of",
    "training_documents",
]
