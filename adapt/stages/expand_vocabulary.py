"""`kind: expand_vocabulary`: give a model the pieces that its tokenizer lacks for a language or a domain."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import BeforeValidator, Field

from adapt.data.sources import Source
from adapt.errors import AdaptError
from adapt.settings import Count, Share, Whole, parse_number
from adapt.stages.base import Complaint, Reads, Reference, Stage, StageContext
from adapt.vocabulary.initialisation import AnyInitialisation
from adapt.vocabulary.initialisation.distil import Distil

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from adapt.checkpoints import ModelLocation
    from adapt.vocabulary.revision import Revision
    from adapt.vocabulary.settling import Settled
    from adapt.vocabulary.texts import Texts


def _listed(value: Any) -> Any:
    return (value,) if isinstance(value, str) else value


Names = Annotated[tuple[str, ...], BeforeValidator(_listed), Field(min_length=1)]
"""One name or a list of names."""
Tokens = Annotated[tuple[Annotated[str, Field(min_length=1)], ...], Field(min_length=1)]
Part = Annotated[float, BeforeValidator(parse_number), Field(gt=0, lt=1)]
Mode = Literal["expand", "replace", "tokens"]

_NEEDS: dict[Mode, tuple[str, str]] = {
    "expand": ("add", "how many pieces to add, or auto"),
    "replace": ("size", "how many tokens the new vocabulary has"),
    "tokens": ("tokens", "the list of tokens to add, or a source that holds it"),
}
_BELONGS: dict[str, tuple[Mode, ...]] = {
    "add": ("expand",),
    "saving": ("expand",),
    "min_frequency": ("expand", "replace"),
    "max_length": ("expand",),
    "drop_unused": ("expand",),
    "protect": ("expand",),
    "size": ("replace",),
    "general_share": ("replace",),
    "tokens": ("tokens",),
    "special": ("tokens",),
}


class ExpandVocabulary(Stage):
    """Give a tokenizer the pieces that a text needs, and the model their rows: learned, trained afresh, or given."""

    version: ClassVar[int] = 2

    kind: Literal["expand_vocabulary"]
    """Grow the vocabulary."""
    model: str
    """The model to grow: a name under `models:` or of an earlier stage."""
    corpus: Names
    """The source, or the list of sources, that the new pieces are learned from."""
    mode: Mode = "expand"
    """`expand` adds pieces, `replace` trains a new vocabulary and keeps the rows of what both have, `tokens` adds a
    given list."""
    add: Count | Literal["auto"] | None = None
    """How many pieces to add (`mode: expand`); the report's curve shows what every smaller number would have brought.
    `auto`: the smallest of 1k, 2k, 4k ... 32k whose next doubling would save less than `saving` of the tokens."""
    saving: Share | None = None
    """With `add: auto`, the share of the held-out tokens that twice as many pieces must save; 5% if not given."""
    size: Count | None = None
    """How many tokens the new vocabulary has, special ones counted (`mode: replace`)."""
    general_share: Share | None = None
    """The share of `general` text in what a new vocabulary is trained on (`mode: replace`); 20% if not given."""
    tokens: Tokens | str | None = None
    """The tokens to add (`mode: tokens`), or the source that has one in each document. Each is written as it stands in
    text; the form after a space is added with it where the corpus has it."""
    special: bool = False
    """Whether the given tokens are special ones, found in text before anything cuts it: for control words only."""
    init: AnyInitialisation = Distil()
    """How the rows of the new pieces begin: a name, or `method` with its settings."""
    min_frequency: Count = 2
    """The fewest tokens that a piece must save on the corpus to be added (`mode: expand` and `replace`)."""
    max_length: Count | None = None
    """The most characters that a piece may have (`mode: expand`); no limit if it is not given."""
    drop_unused: bool | None = None
    """Whether pieces that never occur in held-out text are dropped (`mode: expand`). Not given: where that text has at
    least 1 MB and a tenth of the corpus, since in less a missing piece says little."""
    prune: Count | Part | Literal["unused"] | None = None
    """Old pieces to give up: `unused`, those that the sources of this stage never use; a number or a share of the
    vocabulary, that many of the least used. Never special tokens, bytes, or what a kept piece is built from."""
    pad_to_multiple_of: Count | None = None
    """The embeddings get a multiple of so many rows; those that belong to no token are the mean of the others."""
    protect: Names | None = None
    """Sources whose text must stay cut exactly as it is; pieces that occur in them are not added (`mode: expand`)."""
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
        for key in ("general", "tokens"):
            if isinstance(name := getattr(self, key), str):
                sources.append(Reference((key,), name))
        return Reads(models=(Reference(("model",), self.model),), sources=tuple(sources))

    def files(self) -> Iterator[Path]:
        """The files that the initialisation reads."""
        return self.init.files()

    def relative_to(self, folder: Path) -> ExpandVocabulary:
        """The stage with the files of its initialisation looked up in `folder`."""
        return self.model_copy(update={"init": self.init.relative_to(folder)})

    def complaints(self, sources: Mapping[str, Source]) -> Iterator[Complaint]:
        """Keys that the mode lacks or has no use for, and a source that is both learned from and protected."""
        needed, meaning = _NEEDS[self.mode]
        if getattr(self, needed) is None:
            yield Complaint((), f"lacks the key '{needed}' ({meaning})")
        for key, modes in _BELONGS.items():
            given = getattr(self, key) != type(self).model_fields[key].default
            if given and self.mode not in modes:
                words = " and ".join(modes)
                yield Complaint((key,), f"'{key}' belongs to mode: {words}, and this stage has mode: {self.mode}")
        if self.saving is not None and self.mode == "expand" and self.add != "auto":
            yield Complaint(("saving",), "'saving' decides on the size with add: auto, and here the size is given")
        if self.general_share is not None and self.general is None:
            yield Complaint(("general_share",), "'general_share' is a share of a source; name that in general")
        for path in self.files():
            if not path.exists():
                yield Complaint(("init",), f"there is no file '{path}'")
        for name in set(self.corpus) & set(self.protect or ()):
            yield Complaint(("protect",), f"'{name}' cannot be both the corpus and protected: nothing could be added")

    def run(self, context: StageContext) -> dict[str, Any]:
        """Write `model/` and `vocabulary.json` and return what the pieces bring."""
        from adapt.checkpoints import load_model, load_tokenizer
        from adapt.vocabulary.evidence import Evidence
        from adapt.vocabulary.number_format import in_float32, in_format
        from adapt.vocabulary.rows import grow, init_report, ordinary_rows
        from adapt.vocabulary.settling import prune, settle
        from adapt.vocabulary.written import write_and_load

        for complaint in self.complaints(context.sources):
            raise AdaptError(f"expand_vocabulary: {complaint.message}")
        location, folder = context.models[self.model], context.folder / "model"
        shutil.rmtree(folder, ignore_errors=True)
        old = load_tokenizer(location)
        texts, measured = self._texts(context), self._measured(context)
        revision, report = self._revised(old, location, texts)
        growing = write_and_load(old, location, revision.document, folder, texts.held_out)
        context.log.write("tokenizer", **report)
        model = load_model(location)
        stored = in_float32(model)
        before = _bits_per_byte(model, old, measured)
        ordinary = ordinary_rows(old, model.get_input_embeddings().weight.shape[0])
        evidence = Evidence(model, old, growing, texts.corpus, measured, general=self.general)
        rows = {}
        if revision.ids:
            rows = grow(model, revision.ids, revision.parts, ordinary, self.init, context.seed, evidence)
        if self.prune is not None:
            revision = prune(revision, model, self.prune, texts.every())
        settled = settle(revision, model, self.pad_to_multiple_of, ordinary, texts.held_out)
        new = growing
        if settled.order is not None:
            new = write_and_load(old, location, settled.document, folder, texts.held_out)
        after = _bits_per_byte(model, new, measured)
        difference = _write(in_format(model, stored), folder, context.seed)
        metrics = self._metrics(revision, settled, texts.held_out) | {
            "init": {"method": self.init.method, **init_report(rows)},
            "step0": {name: {"before": before[name], "after": after[name]} for name in measured},
            "rows": model.get_input_embeddings().weight.shape[0],
            "reload_difference": difference,
            "warnings": list(settled.warnings),
        }
        self._write_vocabulary(revision, settled, metrics, context.folder)
        _show(report | metrics, context)
        return report | metrics

    def _texts(self, context: StageContext) -> Texts:
        from adapt.vocabulary.texts import Texts, held_out_texts

        held_out = held_out_texts(self.corpus, context.sources, self.measure)
        return Texts(context.sources, self.corpus, self.general, self.protect or (), self.sample, held_out)

    def _measured(self, context: StageContext) -> dict[str, list[str]]:
        """Held-out texts by source, on which the model is measured."""
        from adapt.vocabulary.texts import held_out_texts

        names = (*self.corpus, *((self.general,) if self.general else ())) if self.measure else ()
        return {name: held_out_texts((name,), context.sources, self.measure) for name in names}

    def _revised(
        self, tokenizer: PreTrainedTokenizerBase, location: ModelLocation, texts: Texts
    ) -> tuple[Revision, dict[str, Any]]:
        """The tokenizer that the mode makes of the base's, and what is to be said of its pieces."""
        from adapt.vocabulary import modes
        from adapt.vocabulary.expansion import Growth
        from adapt.vocabulary.replacement import GENERAL_SHARE
        from adapt.vocabulary.sizing import WORTH
        from adapt.vocabulary.splice import published
        from adapt.vocabulary.written import check_base

        document, name = published(location, tokenizer), location.path
        check_base(tokenizer, document)
        if self.mode == "replace":
            share = GENERAL_SHARE if self.general_share is None else self.general_share
            return modes.replaced(document, texts, self.size or 0, share, self.min_frequency, name)
        if self.mode == "tokens":
            return modes.listed(document, texts, texts.tokens(self.tokens or ()), self.special, name)
        if self.add == "auto":
            growth = Growth(0, self.min_frequency, self.max_length, self.drop_unused)
            worth = WORTH if self.saving is None else self.saving
            return modes.expanded_to_the_knee(document, texts, growth, worth, name)
        growth = Growth(self.add or 0, self.min_frequency, self.max_length, self.drop_unused)
        return modes.expanded(document, texts, growth, name)

    def _metrics(self, revision: Revision, settled: Settled, held_out: Sequence[str]) -> dict[str, Any]:
        from adapt.vocabulary.revision import tokens_saved

        size = 1 + max(revision.base.get_vocab(with_added_tokens=True).values())
        return {
            "mode": self.mode,
            "base_size": size,
            "new_size": len(settled.order) if settled.order is not None else size + len(revision.ids),
            "added": len(revision.ids),
            "removed": len(revision.gone),
            **tokens_saved(revision.base, settled.document, settled.new_ids, held_out),
        }

    def _write_vocabulary(self, revision: Revision, settled: Settled, metrics: Mapping[str, Any], folder: Path) -> None:
        from adapt.vocabulary.artefact import vocabulary_content, write_vocabulary

        numbers = {key: metrics[key] for key in ("base_size", "new_size", "before", "after")}
        write_vocabulary(numbers | vocabulary_content(revision, settled.order, self.mode), folder)


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
    from adapt.checkpoints import probe_ids
    from adapt.methods.reloading import reload_difference

    model.save_pretrained(folder, safe_serialization=True)
    return reload_difference(folder, model, probe_ids(model.get_input_embeddings().weight.shape[0], seed=seed))


def _show(metrics: Mapping[str, Any], context: StageContext) -> None:
    from adapt.vocabulary.sizing import SMALL_SAVING

    before, after, line = metrics["before"], metrics["after"], context.display.line
    if "auto" in metrics:
        line(f"  {metrics['auto']['size']:,} pieces chosen: {metrics['auto']['reason']}")
    gone = f", {metrics['removed']:,} taken out" if metrics["removed"] else ""
    line(
        f"  {metrics['added']:,} pieces added{gone}: fertility {before['fertility']:.2f} to {after['fertility']:.2f}, "
        f"{before['bytes_per_token']:.2f} to {after['bytes_per_token']:.2f} bytes per token on held-out text"
    )
    for name, bits in metrics["step0"].items():
        line(f"  bits per byte of {name}: {bits['before']:.3f} to {bits['after']:.3f} before training")
    for token, reason in metrics.get("skipped", {}).items():
        line(f"  '{token}' was not added: {reason}", style="yellow")
    for note in (*metrics["init"]["notes"], *metrics["warnings"]):
        line(f"  warning: {note}", style="yellow")
    if metrics["mode"] == "expand" and metrics["saving"] < SMALL_SAVING:
        line(
            f"  warning: the new pieces save only {metrics['saving']:.0%} of the tokens; the base already knows this "
            "text, and a larger vocabulary may cost more than it brings",
            style="yellow",
        )
