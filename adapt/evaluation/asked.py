"""Suites from what stands on a command line, instead of a recipe."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from adapt.data.sources import Files, Source
from adapt.errors import AdaptError
from adapt.evaluation.suites import BitsPerByteSuite, ExactMatchSuite, HarnessSuite, Suite


@dataclass
class Asked:
    """Suites and the sources that they read, by name."""

    suites: dict[str, Suite] = field(default_factory=dict)
    sources: dict[str, Source] = field(default_factory=dict)
    general: str | None = None
    """The source on which forgetting is measured."""

    def add_text(self, file: str, size: int) -> str:
        """Bits per byte on all of a file's text, up to `size` bytes; returns the suite's name."""
        name = self._source(file)
        self.suites[name] = BitsPerByteSuite(kind="bits_per_byte", source=name, bytes=size)
        return name

    def add_items(self, file: str, limit: int | None) -> None:
        """Exact match on rows with the fields `prompt` and `answer`: the first `limit`, if given."""
        source = self._source(file)
        name = f"{source} (questions)" if source in self.suites else source
        most = {} if limit is None else {"limit": limit}
        self.suites[name] = ExactMatchSuite(kind="exact_match", source=source, **most)

    def add_task(self, task: str, folder: str | None, limit: int | None) -> None:
        """A task of the lm-evaluation-harness. Raises AdaptError where that cannot run."""
        suite = HarnessSuite(kind="harness", tasks=(task,), task_folder=folder, limit=limit)
        for _, message in suite.complaints():
            raise AdaptError(f"--suite {task}: {message}")
        self.suites[task] = suite

    def _source(self, file: str) -> str:
        """The file as a source: the same one if it was named before."""
        source = Files(files=(file,), held_out=1.0)
        for name, known in self.sources.items():
            if known == source:
                return name
        source.paths()  # a file that is not there is said now, not after a model was loaded
        name = Path(file).name
        while name in self.sources:
            name += "'"
        self.sources[name] = source
        return name
