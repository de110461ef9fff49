"""`adapt vocab`: a look at a tokenizer before anything is paid for."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from adapt.commands.errors import plain_errors
from adapt.commands.numbers import whole

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from adapt.vocabulary.inspect import Expansion, Inspection, Missing

vocab_app = typer.Typer(
    help="Look at what a tokenizer does to a language, before its vocabulary is grown.",
    no_args_is_help=True,
    rich_markup_mode=None,
)


@vocab_app.callback()
def _group() -> None:
    """Keeps `inspect` a command of its own; typer would otherwise make the only command the whole application."""


def _list(metavar: str, text: str, *names: str) -> Any:
    return typer.Option(*names, metavar=metavar, help=text, show_default=False)


@vocab_app.command(epilog="Example: adapt vocab inspect Qwen/Qwen3-0.6B --corpus 'uk/*.txt' --general en.txt -o look")
def inspect(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="A folder, or the id of a hub model.")],
    corpus: Annotated[list[str], _list("FILE", "Text to learn from; may be given several times.", "--corpus")],
    general: Annotated[
        list[str] | None, _list("FILE", "Text that is only measured; may be given several times.", "--general")
    ] = None,
    sizes: Annotated[
        str, typer.Option(metavar="N,N,...", help="The numbers of new pieces to look at.")
    ] = "1k,2k,4k,8k,16k",
    sample: Annotated[str, typer.Option(metavar="BYTES", help="How much of the corpus to learn from.")] = "20M",
    field: Annotated[
        str | None, _list("NAME", "The field that holds the text in JSON, CSV or parquet.", "--field")
    ] = None,
    output: Annotated[Path | None, _list("DIR", "Write inspection.json and curve.png there.", "--output", "-o")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")] = False,
) -> None:
    """Say how a tokenizer cuts a language, and what new pieces would save.

    Only the tokenizer and config.json are loaded. A tenth of the documents is kept out of learning and measured.
    """
    with plain_errors():
        from adapt.vocabulary.from_files import inspect_vocabulary

        found = inspect_vocabulary(model, corpus, general or (), _sizes(sizes), whole("--sample", sample), field)
        if output is not None:
            _write(found, output)
        if as_json:
            typer.echo(json.dumps(found.to_dict(), ensure_ascii=False, indent=2))
        else:
            _show(found, model, output)


def _sizes(text: str) -> list[int]:
    return sorted({whole("--sizes", part) for part in text.split(",")})


def _write(found: Inspection, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    text = json.dumps(found.to_dict(), ensure_ascii=False, indent=2)
    (folder / "inspection.json").write_text(text + "\n", encoding="utf-8")
    _figure(found).savefig(folder / "curve.png", dpi=140, metadata={"Software": None})


def _figure(found: Inspection) -> Figure:
    """The share of tokens saved over the number of new pieces: the corpus, and each text at the sizes looked at."""
    from matplotlib.ticker import EngFormatter, PercentFormatter

    from adapt.report.plots import COLOURS, INK, canvas

    figure, (axes,) = canvas(height=3.6)
    axes.plot(*zip(*found.curve, strict=True), color=COLOURS[0], linewidth=1.8, label="the corpus")
    several = found.texts if len(found.texts) > 1 else ()
    for rank, (name, label) in enumerate(zip(several, _labels(several), strict=True), 1):
        points = [(step.pieces, step.savings[name]) for step in found.expansions]
        colour = COLOURS[rank % len(COLOURS)]
        axes.plot(*zip(*points, strict=True), "--", color=colour, linewidth=1, marker="o", markersize=3.5, label=label)
    axes.axvline(found.size, color="#9aa1ab", linestyle=":", label=f"{found.size:,} pieces")
    for step in found.expansions:
        place = (step.pieces, step.saving)
        axes.plot(*place, "o", color=COLOURS[0], markersize=5)
        axes.annotate(f"{step.saving:.0%}", place, (4, -11), textcoords="offset points", fontsize=8, color=INK)
    axes.set_xlabel("new pieces", fontsize=9, color=INK)
    axes.set_ylabel("tokens saved on held-out text", fontsize=9, color=INK)
    axes.xaxis.set_major_formatter(EngFormatter(sep=""))
    axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    axes.set_ylim(-0.02, max(0.1, 1.12 * max(step.saving for step in found.expansions)))
    axes.legend(edgecolor="white", framealpha=1, fontsize=9, loc="center right")
    return figure


def _labels(names: Iterable[str]) -> list[str]:
    """The files' names without their folders, where these tell them apart."""
    names = list(names)
    short = [Path(name).name for name in names]
    return short if len(set(short)) == len(names) else names


_MEASURES = {
    "bytes": "bytes measured",
    "tokens": "tokens",
    "fertility": "fertility (tokens per word)",
    "bytes_per_token": "bytes per token",
    "characters_per_token": "characters per token",
    "single_bytes": "tokens of a single byte",
    "inside_characters": "tokens that are a part of a character",
    "whole_words": "words kept whole",
    "renyi": "Rényi efficiency (alpha 2.5)",
}
_SHARES = ("single_bytes", "inside_characters", "whole_words")


def _show(found: Inspection, model: str, output: Path | None) -> None:
    from adapt.display import Display

    display, labels = Display(), _labels(found.texts)
    cost = "" if found.embeddings is None else f", {found.embeddings:,} parameters in the embeddings"
    display.line(f"{model}: {found.vocabulary:,} tokens{cost}")
    rows = [
        [label, *(_number(key, measures[key]) for measures in found.texts.values())] for key, label in _MEASURES.items()
    ]
    display.table("how the text is cut", ("", *labels), rows)
    columns = ("new pieces", "bytes per token", *(f"saved of {label}" for label in labels), "parameters")
    display.table("what new pieces would save", columns, [_row(step) for step in found.expansions])
    for title, pieces in (("the most useful missing pieces", found.useful), ("the longest", found.longest)):
        display.table(title, ("piece", "now", "tokens saved per million"), [_piece(piece) for piece in pieces])
    display.line(found.advice, style="bold")
    if output is not None:
        display.line(f"written: {output / 'inspection.json'}, {output / 'curve.png'}")


def _row(step: Expansion) -> list[Any]:
    saved = [f"{share:.1%}" for share in step.savings.values()]
    return [step.pieces, round(step.bytes_per_token, 3), *saved, step.parameters]


def _number(key: str, value: float) -> Any:
    return f"{value:.1%}" if key in _SHARES else round(value, 3)


def _piece(piece: Missing) -> list[Any]:
    """A piece with its spaces shown, the tokens that it is cut into now, and what it would save."""
    parts = [part.replace(" ", "␣") for part in piece.now]
    return [piece.text.replace(" ", "␣"), " ".join(parts), round(piece.saved)]
