"""`kind: export`: hand a model over to other programs, with a proof that it is the one that was trained."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field

from adapt.errors import AdaptError
from adapt.mixture.references import Named, location_of, named
from adapt.settings import Count, Settings, Share
from adapt.stages.base import Complaint, Reads, Reference, Stage, StageContext

if TYPE_CHECKING:
    from adapt.data.sources import Source
    from adapt.export.candidates import Export as Work
    from adapt.export.source import Source as Exported

_COLLAPSED = "collapsed"
_TEXTS = 200
"""Held-out documents that are cut into tokens by a GGUF file's vocabulary and by the tokenizer."""


class Gguf(Settings):
    """GGUF files, for llama.cpp and its kin."""

    types: tuple[Literal["f16", "bf16", "q8_0"], ...] = Field(("q8_0",), min_length=1)
    """Number formats of the matrices, a file for each; vectors stay in float32."""
    pre_tokenizer: str | None = None
    """llama.cpp's name for the rules by which text is cut (`llama-bpe`). Empty: found by comparing the rules."""


class Collapse(Settings):
    """How a mixture becomes a plain model: with its mean gates over the held-out text."""

    by: Literal["average", "ties", "svd"] = "average"
    """The adapters times their mean gates, summed (`average`); trimmed and with elected signs before (`ties`); or
    summed and cut to one LoRA, which is written to `adapter/` too (`svd`). Domain adapters: `average`."""
    rank: Count = 16
    """The rank of svd's LoRA."""
    density: Share = 0.2
    """The share of each adapter's numbers that ties keeps."""


class Export(Stage):
    """Write a finished model for other programs; an adapter is added to its base, and each sum is measured."""

    kind: Literal["export"]
    """Write a model for other programs."""
    model: str
    """A model, or a train stage; if that trained an adapter, the adapter and its base are exported. A stage's live
    mixture (`gates/mixture`) is collapsed first, see collapse."""
    formats: tuple[Literal["safetensors", "adapter", "gguf"], ...] = Field(("safetensors",), min_length=1)
    """What is written: `model/` in shards for transformers and vLLM (`safetensors`), `adapter/` for peft, `gguf/`."""
    dtype: Literal["float32", "bfloat16", "float16"] | None = None
    """The number format of the weights; that of the base if it is not given."""
    base: Literal["original", "dequantised", "corrected", "better"] = "original"
    """What an adapter that trained over 4 bits is added to: the weights on the disk (`original`), those that the 4 bits
    stand for (`dequantised`), the former with the error of the 4 bits folded into the adapter (`corrected`, see
    correct), or whatever comes closest to the model as it trained (`better`). All are measured."""
    correct: Count | None = None
    """The rank of the correction: so many directions of each weight's quantisation error become part of the adapter."""
    shard_size: Count = 5_000_000_000
    """Bytes of weights in one file."""
    held_out: str | None = None
    """The source on whose held-out part the written models are compared with the live one. Empty: random tokens."""
    evaluation_bytes: Count = 20_000
    """Bytes of held-out text that are read."""
    collapse: Collapse = Collapse()
    """How a mixture becomes a plain model. What that costs is measured on the held-out text."""
    gguf: Gguf = Gguf()
    """How GGUF files are written."""

    version: ClassVar[int] = 1

    @property
    def makes_model(self) -> bool:  # type: ignore[override]
        """Whether `model/` stays."""
        return "safetensors" in self.formats

    @property
    def of_mixture(self) -> bool:
        """Whether the model is a stage's live mixture."""
        found = named(self.model)
        return found is not None and found.part == "mixture"

    def reads(self) -> Reads:
        """The model and the source of the held-out text."""
        sources = () if self.held_out is None else (Reference(("held_out",), self.held_out),)
        found = named(self.model) or Named(self.model)
        return Reads((Reference(("model",), found.name, found.part),), sources)

    def complaints(self, sources: Mapping[str, Source]) -> Iterator[Complaint]:
        """A correction without a rank, a choice or a collapse without text, a package that is not there."""
        if self.base == "corrected" and self.correct is None:
            yield Complaint(("correct",), "base 'corrected' needs the rank of the correction; set correct to 16, say")
        if self.base == "better" and self.held_out is None:
            yield Complaint(("held_out",), "base 'better' is chosen by held-out text; name a source with held_out")
        if self.of_mixture and self.held_out is None:
            yield Complaint(("held_out",), "a mixture is collapsed with its mean gates over text; name a source")
        if "gguf" in self.formats and find_spec("gguf") is None:
            yield Complaint(("formats",), "the package 'gguf' is not installed; pip install 'adapt[gguf]'")

    def run(self, context: StageContext) -> dict[str, Any]:
        """Write what is asked for and return what was measured."""
        from adapt.export.candidates import Export as Work
        from adapt.export.candidates import Wanted
        from adapt.export.source import source_of
        from merge.errors import MergeError

        metrics: dict[str, Any] = {}
        if self.of_mixture:
            metrics["collapse"], source = self._collapsed(context)
        else:
            source = source_of(self.model, context.models[self.model], context.upstream.get(self.model))
        if "adapter" in self.formats and source.adapter is None:
            raise AdaptError(f"'{self.model}' has no adapter; leave 'adapter' out of formats")
        text = context.sources[self.held_out] if self.held_out else None
        wanted = Wanted(self.base, self.correct, self.dtype, self.shard_size, text, self.evaluation_bytes)
        work = Work(source, wanted, context.folder, context.display)
        try:
            metrics |= {"choice": work.run(), "formats": {}}
        except MergeError as error:
            raise AdaptError(str(error)) from error
        self._write_formats(context, work, metrics["formats"])
        if not self.makes_model:
            shutil.rmtree(context.folder / "model")
        self._tidy(context)
        show(metrics, context)
        return metrics

    def _tidy(self, context: StageContext) -> None:
        """Keep of what a collapse made its LoRA alone."""
        lora, adapter = context.folder / _COLLAPSED / "adapter", context.folder / "adapter"
        if lora.exists():
            shutil.rmtree(adapter, ignore_errors=True)
            lora.rename(adapter)
        shutil.rmtree(context.folder / _COLLAPSED, ignore_errors=True)

    def _collapsed(self, context: StageContext) -> tuple[dict[str, Any], Exported]:
        """What a collapse cost, and the plain model that it made, below the stage's folder."""
        from adapt.export.source import Source as Exported
        from adapt.mixture.collapse import Way
        from adapt.mixture.deployment import COLUMNS, collapse_folder, lines

        folder, way = context.folder / _COLLAPSED, Way(**self.collapse.model_dump())
        shutil.rmtree(folder, ignore_errors=True)
        mixture = location_of(self.model, context.models, context.upstream).path
        found = collapse_folder(mixture, folder, way, context.sources[self.held_out], self.evaluation_bytes)
        context.display.table(f"{context.stage}: the collapsed mixture", list(COLUMNS), lines(found))
        return found, Exported(self.model, folder)

    def _write_formats(self, context: StageContext, work: Work, made: dict[str, Any]) -> None:
        """The formats that are made from `model/` and from the adapter."""
        if "safetensors" in self.formats:
            files = sorted((context.folder / "model").glob("*.safetensors"))
            made["safetensors"] = {"files": len(files), "bytes": sum(file.stat().st_size for file in files)}
        if "adapter" in self.formats:
            from adapt.export.adapters import write_adapter

            made["adapter"] = write_adapter(work.source, work.adapter(), context.folder / "adapter")
        shutil.rmtree(context.folder / "adapter_corrected", ignore_errors=True)
        if "gguf" in self.formats:
            made["gguf"] = self._write_gguf(context)

    def _write_gguf(self, context: StageContext) -> dict[str, Any]:
        from adapt.export.gguf.proof import prove
        from adapt.export.gguf.write import Plan, write

        folder, made = context.folder / "gguf", {}
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        for kind in self.gguf.types:
            plan = Plan.of(context.folder / "model", kind, self.gguf.pre_tokenizer)
            file = folder / f"{context.recipe}-{self.model.replace('/', '-')}-{kind.upper()}.gguf"
            write(plan, file, f"{context.recipe} {self.model}")
            proof = prove(plan, file, self._texts(context))
            made[kind] = {"file": file.name, "bytes": file.stat().st_size, **proof, "warnings": plan.warnings()}
        return made

    def _texts(self, context: StageContext) -> list[str]:
        """Held-out documents, for the proof of the vocabulary."""
        from adapt.data.documents import content
        from adapt.data.sources import held_out_documents

        if self.held_out is None:
            return []
        return [content(document) for document in held_out_documents(context.sources[self.held_out])][:_TEXTS]


def show(metrics: Mapping[str, Any], context: StageContext) -> None:
    """Print what was measured, what was written, and what to know."""
    choice, rows = metrics["choice"], []
    for name, numbers in choice["measured"].items():
        bits = numbers.get("bits_per_byte")
        row = [name, f"{numbers['kl']:.2e}", f"{numbers['top1_agreement']:.1%}", "" if bits is None else f"{bits:.4f}"]
        rows.append([*row, "written" if name == choice["written"] else ""])
    columns = ["base", "KL to the live model", "same first choice", "bits per byte", ""]
    context.display.table(f"{context.stage}: written models beside the live one", columns, rows)
    for kind, found in metrics["formats"].get("gguf", {}).items():
        said = f"read back and compared: {sum(found['tensors'].values())} tensors, {found['tokens']:,} tokens"
        context.display.line(f"  {found['file']} ({kind}): {said}, {found['texts']} texts")
        for warning in found["warnings"]:
            context.display.line(f"  warning: {warning}", style="yellow")
