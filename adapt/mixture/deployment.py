"""From a mixture's folder to something that needs no mixture."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from adapt.checkpoints import local_folder
from adapt.errors import AdaptError

if TYPE_CHECKING:
    from adapt.data.sources import Source
    from adapt.mixture.collapse import Way

TEXT_BYTES = 20_000
"""Bytes of text over which gates are averaged and on which a result is measured."""


def collapse_folder(
    folder: str | Path,
    output: str | Path,
    way: Way,
    text: Source,
    size: int = TEXT_BYTES,
    base: str | Path | None = None,
) -> dict[str, Any]:
    """Write a mixture's folder as a plain checkpoint; see `adapt.mixture.collapse`.

    Gates are averaged and the result is measured on the held-out part of `text`, its first `size` bytes. `base` is as
    for `adapt.load_mixture`. Raises AdaptError where folder, base and text do not go together.
    """
    import torch

    from adapt.export.measures import held_out_text
    from adapt.mixture.collapse import collapse
    from adapt.mixture.folder import load_mixture
    from adapt.mixture.mixture import mixture_in

    cuda = torch.cuda.is_available()
    model, tokenizer = load_mixture(folder, base=base, dtype="auto" if cuda else torch.float32)
    model = model.to("cuda") if cuda else model
    found = held_out_text(text, tokenizer, model.config, size)
    if found is None:
        raise AdaptError("the source has no held-out text to average the gates over; raise its held_out")
    return collapse(model, local_folder(mixture_in(model).base.location), found, Path(output), way)


def text_file(path: str | Path) -> Source:
    """A file of text or conversations, all of it held out."""
    from pydantic import TypeAdapter

    from adapt.data.sources import AnySource

    if not Path(path).is_file():
        raise AdaptError(f"there is no file '{path}'; name one with text, one document a paragraph or line of JSON")
    return TypeAdapter(AnySource).validate_python({"files": str(path), "held_out": 1.0})


def lines(found: dict[str, Any]) -> list[list[str]]:
    """What a collapse cost, as rows of a table: model, KL, equal first choices, bits per byte."""
    live = found.get("live", {}).get("bits_per_byte")
    rows = [["the live mixture", "0", "100.0%", "" if live is None else f"{live:.4f}"]]
    for name, numbers in found["measured"].items():
        bits = numbers.get("bits_per_byte")
        title = f"collapsed by {found['by']}" if name == "collapsed" else "the base alone"
        row = [title, f"{numbers['kl']:.2e}", f"{numbers['top1_agreement']:.1%}"]
        rows.append([*row, "" if bits is None else f"{bits:.4f}"])
    return rows


COLUMNS = ("model", "KL to the mixture", "same first choice", "bits per byte")
