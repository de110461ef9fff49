"""Finds what a report or a comparison is about: a run's folder, or one stage's, as records."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from adapt.errors import AdaptError
from adapt.report.records import Record, read_record


@dataclass(frozen=True)
class RunRecords:
    """A run, or a single stage of one, as its folders show it. `label` is what was asked for."""

    label: str
    folder: Path
    name: str
    description: str
    stages: Mapping[str, Path]

    def records(self) -> list[Record]:
        """The stages in order; those that are not there yet as missing."""
        return [read_record(name, folder) for name, folder in self.stages.items()]


def show_in_browser(page: Path) -> None:
    """Open a page. Raises AdaptError, with its place, where this machine has no browser to show it in."""
    import webbrowser

    if not webbrowser.open(page.absolute().as_uri()):
        raise AdaptError(f"no browser can be opened here; the page is '{page}'")
