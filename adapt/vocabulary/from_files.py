"""A look at a model's tokenizer on files of text: what `adapt vocab inspect` does, from Python as well."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from adapt.checkpoints import ModelLocation, load_config, load_tokenizer
from adapt.data.sources import Files, Source, held_out_documents
from adapt.errors import AdaptError
from adapt.vocabulary.inspect import SIZES, Inspection, ModelSize, inspect
from adapt.vocabulary.splice import published
from adapt.vocabulary.texts import training_texts
from adapt.vocabulary.words import text_of

_HELD_OUT = 0.1
_MEASURED = 1_000_000
"""Bytes of each text that are measured at most."""


def inspect_vocabulary(
    model: str | Path,
    corpus: Sequence[str | Path],
    general: Sequence[str | Path] = (),
    sizes: Sequence[int] = SIZES,
    sample: int | None = 20_000_000,
    field: str | None = None,
) -> Inspection:
    """Say how a model's tokenizer cuts the files of `corpus`, and what so many new pieces (`sizes`) would save.

    A tenth of the corpus's documents is kept out of learning and measured; of `general` all is measured and nothing
    learned. `model` is a folder or a hub id, of which only the tokenizer and `config.json` are loaded; `sample` are
    the bytes that are learned from at most, `field` is the one that holds the text in JSON, CSV or parquet. Raises
    AdaptError for files that are missing or empty and for a tokenizer that cannot grow.
    """
    learned = _sources(corpus, field, _HELD_OUT)
    measured = _sources(general, field, 1)
    location = ModelLocation(str(model))
    return inspect(
        published(location, load_tokenizer(location)),
        training_texts(list(learned), learned, sample),
        _texts(learned),
        _texts(measured),
        sizes,
        _model_size(location),
        str(model),
    )


def _sources(files: Sequence[str | Path], field: str | None, held_out: float) -> dict[str, Source]:
    return {str(file): Files(files=(str(file),), field=field, held_out=held_out) for file in files}


def _texts(sources: Mapping[str, Source]) -> dict[str, list[str]]:
    return {name: list(map(text_of, held_out_documents(source, _MEASURED))) for name, source in sources.items()}


def _model_size(location: ModelLocation) -> ModelSize | None:
    """The embeddings' shape by `config.json`; None for a tokenizer without a model."""
    try:
        config = load_config(location).get_text_config()
    except AdaptError:
        return None
    width = getattr(config, "hidden_size", None)
    if width is None:
        return None
    return ModelSize(config.vocab_size, width, bool(getattr(config, "tie_word_embeddings", False)))
