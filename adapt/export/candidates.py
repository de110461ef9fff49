"""Every way to write a source: written, loaded again, measured against the live model; one is kept."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from adapt.checkpoints import load_config, load_tokenizer, read_json
from adapt.errors import AdaptError
from adapt.export import bases
from adapt.export.correction import correct
from adapt.export.measures import Reference, closest, drawn_text, held_out_text
from adapt.export.source import Source, load_plain
from adapt.methods.adapter import with_rows_file
from merge.engine import write

if TYPE_CHECKING:
    from adapt.data.sources import Source as TextSource
    from adapt.display import Display
    from merge.planning import Merge

_BESIDE = ("generation_config.json", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json")
_BESIDE += ("chat_template.jinja", "adapt_vocabulary.json")
CORRECTED = "adapter_corrected"


@dataclass(frozen=True)
class Wanted:
    """What is asked for: the base (`better`: the closest), the rank of the correction, format, size of shards, text."""

    base: str
    correct: int | None
    dtype: str | None
    shard_size: int
    text: TextSource | None
    bytes: int


@dataclass
class Export:
    """One export at work below `folder`: the live model is read first, then each candidate is written and measured."""

    source: Source
    wanted: Wanted
    folder: Path
    display: Display
    names: Collection[str] = ()
    """The weights that stood in 4 bits while the adapter trained."""
    measured: dict[str, dict[str, float]] = field(default_factory=dict)

    def run(self) -> dict[str, Any]:
        """Write `folder/model` and return what was measured and which base was written."""
        self._check()
        reference = self._read_live()
        correction = self._correct()
        kept = ""
        for name, plan in self._plans():
            self._write(name, plan())
            self.measured[name] = reference.compare(load_plain(self._place(name)))
            kept = self._better(kept, name)
        shutil.rmtree(reference.folder)
        record = {"source": self.source.name, "asked": self.wanted.base, "written": kept, "measured": self.measured}
        record |= {"live": {"bits_per_byte": reference.bits_per_byte}} if reference.bits_per_byte else {}
        record |= {"moved": self.source.moved} if self.source.moved else {}
        record |= {"correction": correction} if correction else {}
        self._finish(kept, record)
        return record

    def adapter(self) -> Path:
        """The adapter whose sum with the base on the disk is `folder/model`, or the trained one."""
        corrected = self.folder / CORRECTED
        if self.source.adapter is None:
            raise AdaptError(f"'{self.source.name}' has no adapter; leave 'adapter' out of formats")
        return corrected if corrected.exists() else self.source.adapter

    def _check(self) -> None:
        """Raise AdaptError for a base that there is not."""
        source, wanted = self.source, self.wanted
        if wanted.base in ("dequantised", "corrected") or wanted.correct is not None:
            key = "correct" if wanted.base not in ("dequantised", "corrected") else f"base: {wanted.base}"
            if source.adapter is None:
                raise AdaptError(f"{key} needs an adapter, and '{source.name}' is a plain model")
            if source.moved:
                raise AdaptError(
                    f"{key}: the weights around which '{source.name}' trained are not those of its base "
                    f"({source.moved}); set base to original"
                )
            if not source.four_bit:
                raise AdaptError(f"{key} needs a base in 4 bits, and '{source.name}' trained over a plain one")

    def _read_live(self) -> Reference:
        tokenizer, model = load_tokenizer(_location(self.source.model)), self.source.live()
        self.names = quantised_names(model)
        text = None
        if self.wanted.text is not None:
            text = held_out_text(self.wanted.text, tokenizer, model.config, self.wanted.bytes)
            if text is None:
                raise AdaptError("held_out: the source has no held-out text to measure on; raise its held_out")
        config = load_config(_location(self.source.model)).get_text_config()
        text = text or drawn_text(len(tokenizer), getattr(config, "max_position_embeddings", None))
        computing = self.source.precision.autocast() if self.source.precision else None
        return Reference.of(model, text, self.folder / "live", computing)

    def _correct(self) -> dict[str, float]:
        shutil.rmtree(self.folder / CORRECTED, ignore_errors=True)
        if self.wanted.correct is None:
            return {}
        return correct(self.source, self.names, self.wanted.correct, self.folder / CORRECTED)

    def _plans(self) -> Iterator[tuple[str, Callable[[], Merge]]]:
        source, dtype = self.source, self.wanted.dtype
        if source.adapter is None:
            yield "plain", lambda: bases.plain(source, dtype)
            return
        yield "original", lambda: bases.original(source, dtype)
        if source.four_bit:
            yield "dequantised", lambda: bases.dequantised(source, dtype, self.names)
        if self.wanted.correct is not None:
            yield "corrected", lambda: bases.original(source, dtype, self.folder / CORRECTED)

    def _place(self, name: str) -> Path:
        return self.folder / "candidates" / name

    def _write(self, name: str, merge: Merge) -> None:
        place = self._place(name)
        shutil.rmtree(place, ignore_errors=True)
        place.parent.mkdir(exist_ok=True)
        with self.display.progress(f"writing {name}", merge.size) as task:
            write(merge, place, self.wanted.shard_size, lambda done, _: task.update(done))
        for file in _BESIDE:
            if (self.source.model / file).exists():
                shutil.copyfile(self.source.model / file, place / file)

    def _better(self, kept: str, name: str) -> str:
        """Of two candidates the one to keep; the other is deleted."""
        asked = self.wanted.base if self.source.adapter is not None else "plain"
        better = name if not kept else closest({key: self.measured[key] for key in (kept, name)})
        if asked != "better":
            better = asked if asked in self.measured else name
        for other in {kept, name} - {better, ""}:
            shutil.rmtree(self._place(other), ignore_errors=True)
        return better

    def _finish(self, kept: str, record: Mapping[str, Any]) -> None:
        """Put the kept candidate in its place, with the record in its `merge.json`."""
        model, place = self.folder / "model", self._place(kept)
        merged = read_json(place / "merge.json") | {"export": record}
        if self.source.adapter is not None:
            merged = with_rows_file(merged, self.adapter(), bases.ADAPTER)
        (place / "merge.json").write_text(json.dumps(merged, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
        with (place / "README.md").open("a", encoding="utf-8") as card:
            card.write(_card(record))
        shutil.rmtree(model, ignore_errors=True)
        place.rename(model)
        shutil.rmtree(self.folder / "candidates")
        if kept != "corrected":
            shutil.rmtree(self.folder / CORRECTED, ignore_errors=True)


def _card(record: Mapping[str, Any]) -> str:
    """Which base was written and how close it is to the live model, for the model card."""
    numbers = record["measured"][record["written"]]
    what = {"dequantised": " The base was read as 4-bit NormalFloat holds it."}.get(record["written"], "")
    return (
        f"\nExported as `{record['written']}`.{what} Beside the model as it trained: KL {numbers['kl']:.2e} nats per "
        f"token, {numbers['top1_agreement']:.1%} equal first choices.\n"
    )


def _location(folder: Path) -> Any:
    from adapt.checkpoints import ModelLocation

    return ModelLocation(str(folder))


def quantised_names(model: Any) -> frozenset[str]:
    """The weights of a model that stand in 4 bits, by their names in the plain model."""
    from bitsandbytes.nn import Linear4bit

    from adapt.methods.base import plain_model

    modules = plain_model(model).named_modules()
    return frozenset(
        f"{name.removesuffix('.base_layer')}.weight" for name, module in modules if isinstance(module, Linear4bit)
    )
