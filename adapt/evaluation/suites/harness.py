"""Tasks of EleutherAI's lm-evaluation-harness, by name: published ones, and files of one's own."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Literal

from pydantic import Field

from adapt.evaluation.suites.base import Suite
from adapt.settings import Count, Whole

MISSING = "the package 'lm-eval' is not installed; pip install 'adapt[harness]'"


class HarnessSuite(Suite):
    """Tasks of the lm-evaluation-harness (Gao et al., zenodo.org/records/12608602), scored as it scores them.

    Published tasks load their data from the hub; tasks of a `task_folder` may lie beside their data and need no
    network. Values and standard errors are the harness's own.
    """

    kind: Literal["harness"]
    """Run tasks of the lm-evaluation-harness."""

    tasks: tuple[str, ...] = Field(min_length=1)
    """Names of tasks, groups or tags, as `lm-eval ls tasks` shows them, or of tasks in task_folder."""

    task_folder: str | None = None
    """A folder with the harness's YAML files for tasks of your own. Data files that they name by a relative path are
    looked up there, and Python that they refer to (`!function`) runs: use only files that you have read."""

    limit: Count | None = None
    """How many documents of each task at most: the first ones. Empty: all."""

    shots: Whole | None = None
    """How many solved examples stand before each question. Empty: what the task says."""

    format: Literal["prose", "chat"] = "prose"
    """How to ask: as plain text, which is what published numbers mean, or in the model's chat template."""

    batch_size: Count = 8
    """Requests that the model sees at once."""

    def complaints(self) -> Iterator[tuple[str, str]]:
        """A package or a folder that is not there."""
        if find_spec("lm_eval") is None:
            yield "kind", MISSING
        if self.task_folder is not None and not Path(self.task_folder).is_dir():
            yield "task_folder", f"there is no folder '{self.task_folder}'"

    def files(self) -> Iterator[Path]:
        """Everything below task_folder but what Python leaves there."""
        if self.task_folder is not None:
            paths = (path for path in sorted(Path(self.task_folder).rglob("*")) if path.is_file())
            yield from (path for path in paths if path.suffix != ".pyc")

    def relative_to(self, folder: Path) -> HarnessSuite:
        """The suite with a task_folder that is not here, but in `folder`, taken from there."""
        if self.task_folder is None or Path(self.task_folder).is_dir() or not (folder / self.task_folder).is_dir():
            return self
        return self.model_copy(update={"task_folder": str(folder / self.task_folder)})
