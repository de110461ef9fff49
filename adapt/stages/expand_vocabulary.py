"""`kind: expand_vocabulary`: give a model the pieces that its tokenizer lacks for a language or a domain."""

from __future__ import annotations

import itertools
import json
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import BeforeValidator, Field

from adapt.data.sources import Source, held_out_documents, training_documents
from adapt.errors import AdaptError
from adapt.settings import Count, Whole
from adapt.stages.base import Complaint, Reads, Reference, Stage, StageContext
from adapt.vocabulary.initialisation import AnyInitialisation
from adapt.vocabulary.initialisation.mean_of_pieces import MeanOfPieces

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from adapt.checkpoints import ModelLocation
    from adapt.vocabulary.expansion import Grown

SMALL_SAVING = 0.15
"""The share of tokens saved below which an expansion is said to be hardly worth it."""
_LEAST_HELD_OUT = 20_000
"""Bytes of held-out text on which the tokenizer is measured even where the model is not."""
VOCABULARY_FILE = "vocabulary.json"
_BESIDE_MODEL = "adapt_vocabulary.json"


def _listed(value: Any) -> Any:
    return (value,) if isinstance(value, str) else value


Names = Annotated[tuple[str, ...], BeforeValidator(_listed), Field(min_length=1)]
"""One name or a list of names."""


class ExpandVocabulary(Stage):
    """Learn pieces on a corpus, splice them into a byte-level BPE tokenizer as real merges, initialise their rows."""

    version: ClassVar[int] = 1

    kind: Literal["expand_vocabulary"]
    """Grow the vocabulary."""
    model: str
    """The model to grow: a name under `models:` or of an earlier stage."""
    corpus: Names
    """The source, or the list of sources, that the new pieces are learned from."""
    add: Count
    """How many pieces to add; the report's curve shows what every smaller number would have brought."""
    init: AnyInitialisation = MeanOfPieces()
    """How the rows of the new pieces begin: a name, or `method` with its settings."""
    min_frequency: Count = 2
    """The fewest tokens that a piece must save on the corpus to be added."""
    max_length: Count | None = None
    """The most characters that a piece may have; no limit if it is not given."""
    protect: Names | None = None
    """Sources whose text must stay cut exactly as it is; pieces that occur in them are not added."""
    general: str | None = None
    """A source of general text on which bits per byte are measured as well, before and after."""
    sample: Count | None = None
    """How many bytes of text to learn from, spread evenly over the sources; all of it if it is not given."""
    measure: Whole = 100_000
    """How many bytes of held-out text of each source are measured; at 0, the model itself is not run."""

    def reads(self) -> Reads:
        """The model, and the sources to learn from, to protect and to measure on."""
        lists = {"corpus": self.corpus, "protect": self.protect or ()}
        sources = [Reference((key, index), name) for key, names in lists.items() for index, name in enumerate(names)]
        if self.general is not None:
            sources.append(Reference(("general",), self.general))
        return Reads(models=(Reference(("model",), self.model),), sources=tuple(sources))

    def complaints(self, sources: Mapping[str, Source]) -> Iterator[Complaint]:
        """A source that is both learned from and protected."""
        for name in set(self.corpus) & set(self.protect or ()):
            yield Complaint(("protect",), f"'{name}' cannot be both the corpus and protected: nothing could be added")

    def run(self, context: StageContext) -> dict[str, Any]:
        """Write `model/` and `vocabulary.json` and return what the pieces bring."""
        from adapt.checkpoints import load_model, load_tokenizer
        from adapt.vocabulary.rows import grow, ordinary_rows

        location = context.models[self.model]
        shutil.rmtree(context.folder / "model", ignore_errors=True)
        old = load_tokenizer(location)
        held_out = _held_out(self.corpus, context.sources, self.measure)
        measured = {name: _held_out((name,), context.sources, self.measure) for name in self._measured()}
        grown, new = self._grow_tokenizer(context, location, old, held_out)
        model = load_model(location)
        before = _bits_per_byte(model, old, measured)
        ordinary = ordinary_rows(old, model.get_input_embeddings().weight.shape[0])
        rows = grow(model, grown.ids, grown.parts, ordinary, self.init, context.seed)
        after = _bits_per_byte(model, new, measured)
        difference = _write(model, context.folder / "model", context.seed)
        metrics = self._metrics(grown, held_out, rows) | {
            "step0": {name: {"before": before[name], "after": after[name]} for name in measured},
            "rows": model.get_input_embeddings().weight.shape[0],
            "reload_difference": difference,
        }
        _write_vocabulary(grown, metrics, context.folder)
        _show(metrics, context)
        return metrics

    def _measured(self) -> tuple[str, ...]:
        if not self.measure:
            return ()
        return (*self.corpus, *((self.general,) if self.general else ()))

    def _grow_tokenizer(
        self,
        context: StageContext,
        location: ModelLocation,
        tokenizer: PreTrainedTokenizerBase,
        held_out: Sequence[str],
    ) -> tuple[Grown, PreTrainedTokenizerBase]:
        """Learn and splice; write the tokenizer to `model/` and load it from there in the usual way."""
        from adapt.checkpoints import ModelLocation, load_tokenizer
        from adapt.vocabulary.expansion import Growth, expand
        from adapt.vocabulary.invariants import PROBES, check_loader
        from adapt.vocabulary.splice import core_of, published, write_tokenizer

        document = published(location, tokenizer)
        check_loader(tokenizer, core_of(document), PROBES)
        grown = expand(
            document,
            Growth(self.add, self.min_frequency, self.max_length),
            _training(self.corpus, context.sources, self.sample),
            held_out,
            _training(self.protect or (), context.sources, self.sample),
            location.path,
        )
        folder = context.folder / "model"
        write_tokenizer(tokenizer, grown.document, folder)
        loaded = load_tokenizer(ModelLocation(str(folder)))
        check_loader(loaded, grown.tokenizer, (*PROBES, *held_out[:100]))
        return grown, loaded

    def _metrics(self, grown: Grown, held_out: Sequence[str], rows: dict[str, Any]) -> dict[str, Any]:
        from adapt.vocabulary.expansion import tokenizer_report

        first = grown.ids[0]
        return {
            "base_size": first,
            "new_size": first + len(grown.ids),
            "added": len(grown.ids),
            **tokenizer_report(grown, held_out),
            "init": {"method": self.init.method, "norms": rows},
        }


def _training(names: Iterable[str], sources: Mapping[str, Source], sample: int | None) -> Iterator[str]:
    from adapt.vocabulary.words import text_of, up_to

    names = tuple(names)
    share = None if sample is None else -(-sample // max(1, len(names)))
    texts = (up_to(map(text_of, training_documents(sources[name])), share) for name in names)
    return itertools.chain.from_iterable(texts)


def _held_out(names: Sequence[str], sources: Mapping[str, Source], size: int) -> list[str]:
    from adapt.vocabulary.words import text_of

    limit = max(size, _LEAST_HELD_OUT)
    texts = [text_of(document) for name in names for document in held_out_documents(sources[name], limit)]
    if not any(text.strip() for text in texts):
        raise AdaptError(
            f"{', '.join(repr(name) for name in names)} holds no held-out text to measure the new vocabulary on; "
            "raise its held_out, for example to 5%"
        )
    return texts


def _bits_per_byte(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, texts: Mapping[str, Sequence[str]]
) -> dict[str, float]:
    import torch

    from adapt.evaluation.bits_per_byte import bits_per_byte

    model.to("cuda" if texts and torch.cuda.is_available() else "cpu")
    bits = {name: bits_per_byte(model, tokenizer, documents).value for name, documents in texts.items()}
    model.to("cpu")
    return bits


def _write(model: PreTrainedModel, folder: Path, seed: int) -> float:
    """Write the weights beside the tokenizer and prove that the checkpoint loads as it is."""
    import torch

    from adapt.checkpoints import probe_ids, verify_checkpoint

    model.save_pretrained(folder, safe_serialization=True)
    ids = probe_ids(model.get_input_embeddings().weight.shape[0], seed=seed)
    with torch.inference_mode():
        expected = model.float().eval()(input_ids=ids, use_cache=False).logits
    return verify_checkpoint(folder, expected, ids)


def _write_vocabulary(grown: Grown, metrics: Mapping[str, Any], folder: Path) -> None:
    kept = ("base_size", "new_size", "before", "after")
    content = {key: metrics[key] for key in kept} | {
        "new_ids": grown.ids,
        "new_tokens": [piece.string for piece in grown.pieces],
        "pieces": {piece.string: list(parts) for piece, parts in zip(grown.pieces, grown.parts, strict=True)},
        "merges": [[piece.left, piece.right] for piece in grown.pieces],
    }
    text = json.dumps(content, ensure_ascii=False)
    for path in (folder / VOCABULARY_FILE, folder / "model" / _BESIDE_MODEL):
        path.write_text(text, encoding="utf-8")


def _show(metrics: Mapping[str, Any], context: StageContext) -> None:
    before, after = metrics["before"], metrics["after"]
    context.display.line(
        f"  {metrics['added']:,} pieces added: fertility {before['fertility']:.2f} to {after['fertility']:.2f}, "
        f"{before['bytes_per_token']:.2f} to {after['bytes_per_token']:.2f} bytes per token on held-out text"
    )
    for name, bits in metrics["step0"].items():
        context.display.line(f"  bits per byte of {name}: {bits['before']:.3f} to {bits['after']:.3f} before training")
    if metrics["saving"] < SMALL_SAVING:
        context.display.line(
            f"  warning: the new pieces save only {metrics['saving']:.0%} of the tokens; the base already knows this "
            "text, and a larger vocabulary may cost more than it brings",
            style="yellow",
        )
