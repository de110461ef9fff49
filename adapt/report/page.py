"""The page: stages in order, one section each, everything inline."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from adapt.display import duration_text
from adapt.report.blocks import Block, Cell, Table, table
from adapt.report.plots import Plots
from adapt.report.records import Record, read_record
from adapt.report.sections import blocks

PAGE = "report.html"
_TEMPLATES = Path(__file__).parent / "templates"


@dataclass(frozen=True)
class _Section:
    name: str
    anchor: str
    kind: str
    state: str
    blocks: list[Block]
    manifest: str


def build(run_folder: Path, recipe_name: str, stages: Mapping[str, Path], description: str = "") -> Path:
    """Write `run_folder/report.html` and `run_folder/plots/*.png`; return the page's path.

    `description` says what the recipe is for. `stages` maps each stage's name to its folder, in the recipe's order.
    Folders may be finished, unfinished or not there yet: the page shows what there is. It loads nothing from
    anywhere: styles and plots are inside.
    """
    run_folder = Path(run_folder)
    records = [read_record(name, folder) for name, folder in stages.items()]
    return write_page(run_folder / PAGE, recipe_name, records, description)


def write_page(path: Path, title: str, records: Sequence[Record], description: str = "") -> Path:
    """Write a page on these records as `path`, whole or not at all, and its plots as `plots/*.png` beside it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    plots = Plots(path.parent)
    sections = [
        _Section(record.name, f"stage-{number}", record.kind, record.state, blocks(record, plots), _manifest(record))
        for number, record in enumerate(records, 1)
    ]
    told = {"lead": _lead(records), "overview": _overview(records)}
    html = _render("report of a run", recipe=title, description=description, sections=sections, **told)
    return _write(path, html)


def write_tables(path: Path, title: str, description: str, parts: Mapping[str, list[Block]], lead: Table) -> Path:
    """Write a page of named parts, headed by one table, as `path`: for what is no single run."""
    sections = [
        _Section(name, f"part-{number}", "", "", own, "") for number, (name, own) in enumerate(parts.items(), 1)
    ]
    html = _render("comparison", recipe=title, description=description, lead="", overview=lead, sections=sections)
    path.parent.mkdir(parents=True, exist_ok=True)
    return _write(path, html)


def _write(path: Path, html: str) -> Path:
    part = path.with_suffix(".part")
    part.write_text(html, encoding="utf-8")
    os.replace(part, path)
    return path


def _render(what: str, **values: Any) -> str:
    from jinja2 import Environment, FileSystemLoader, StrictUndefined
    from markupsafe import Markup

    environment = Environment(
        loader=FileSystemLoader(_TEMPLATES), autoescape=True, undefined=StrictUndefined, keep_trailing_newline=True
    )
    style = Markup((_TEMPLATES / "style.css").read_text(encoding="utf-8"))
    return environment.get_template("page.html").render(what=what, style=style, **values)


def _manifest(record: Record) -> str:
    if not record.manifest:
        return "There is no manifest: the stage has not finished."
    return json.dumps(record.manifest, indent=2, ensure_ascii=False)


def _lead(records: Sequence[Record]) -> str:
    done = sum(record.state == "finished" for record in records)
    seconds = sum(record.seconds or 0.0 for record in records)
    stages = f"{len(records)} stage" + ("s" if len(records) != 1 else "")
    return f"{done} of {stages} finished, {duration_text(seconds)} of work in all."


def _overview(records: Sequence[Record]) -> Table:
    rows = [
        (
            Cell(record.name),
            Cell(record.kind),
            Cell(record.state, "good" if record.state == "finished" else "bad"),
            Cell(record.time, number=True),
            Cell(record.key[:12]),
        )
        for record in records
    ]
    note = "The key is a hash of a stage's settings and of all that it reads: the same key, the same result."
    return table("", ("stage", "kind", "state", "time", "key"), rows, note)
