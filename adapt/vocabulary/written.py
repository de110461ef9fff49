"""Writing a tokenizer and reading it back the way that everyone does, with the proof that nothing was lost between."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from adapt.vocabulary.byte_level import is_byte_level
from adapt.vocabulary.invariants import PROBES, check_loader
from adapt.vocabulary.renumbering import check_added
from adapt.vocabulary.splice import core_of, published, write_tokenizer

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from adapt.checkpoints import ModelLocation

_SAMPLE = 100
"""Held-out texts on which a run compares the loaded tokenizer with the file."""


def check_base(tokenizer: PreTrainedTokenizerBase, document: Mapping[str, Any]) -> None:
    """The base's loader reads its file as it is written; what is learned from the file would otherwise never occur.

    Byte-level only: Llama-2's loader puts no space before a text that begins with one, whatever the file says.
    """
    if is_byte_level(document):
        check_loader(tokenizer, core_of(document), PROBES)


def write_and_load(
    base: PreTrainedTokenizerBase,
    location: ModelLocation,
    document: Mapping[str, Any],
    folder: Path,
    texts: Sequence[str],
) -> PreTrainedTokenizerBase:
    """Write the tokenizer `document` into the folder, with the base's settings and chat template, and load it.

    Raises AdaptError where the usual loader gives other ids than the
    file says, for text or for an added token.
    """
    from adapt.checkpoints import ModelLocation, load_tokenizer

    write_tokenizer(base, document, folder, location)
    loaded = load_tokenizer(ModelLocation(str(folder)))
    before = None if is_byte_level(document) else (base, core_of(published(location, base)))
    check_loader(loaded, core_of(document), (*PROBES, *texts[:_SAMPLE]), before)
    check_added(loaded, document)
    return loaded
