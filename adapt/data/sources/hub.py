"""`dataset:` a data set of the Hugging Face hub, or a folder in the same layout."""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from adapt.data.sources.base import Place, Source, digest
from adapt.data.sources.files import file_digest
from adapt.errors import AdaptError

if TYPE_CHECKING:
    from datasets import Dataset


class HubDataset(Source):
    """A data set that `datasets` loads: a hub id, or a folder. Its code is never run."""

    key: ClassVar[str] = "dataset"

    dataset: str
    """The id on the hub, such as `wikimedia/wikipedia`, or a local folder with data files."""
    config: str | None = None
    """The configuration, for data sets that have several."""
    split: str = "train"
    """The split."""
    revision: str | None = None
    """The commit, tag or branch; a commit makes the run repeatable."""

    @property
    def origin(self) -> str:
        """The id."""
        return f"dataset '{self.dataset}'"

    def located_rows(self) -> Iterator[tuple[Place, dict[str, Any]]]:
        """The rows, read from the memory-mapped cache of `datasets`."""
        for number, row in enumerate(self._load(), 1):
            yield Place(f"{self.dataset}[{self.split}]", number), row

    def fingerprint(self) -> str:
        """For a folder a hash of its files; for a hub id the fingerprint of what was loaded."""
        folder = Path(self.dataset)
        if folder.is_dir():
            files = sorted(path for path in folder.rglob("*") if path.is_file())
            content = [(path.relative_to(folder).as_posix(), file_digest(path)) for path in files]
            return digest(self.config, self.split, content)
        return digest(self.dataset, self.config, self.split, self.revision, self._load()._fingerprint)

    def _load(self) -> Dataset:
        return _load(self.dataset, self.config, self.split, self.revision)


@lru_cache(maxsize=8)
def _load(name: str, config: str | None, split: str, revision: str | None) -> Dataset:
    """The data set. Raises AdaptError with one line where it is not there, offline included."""
    import datasets

    try:
        return datasets.load_dataset(name, config, split=split, revision=revision)
    except (OSError, ValueError, RuntimeError, datasets.exceptions.DatasetsError) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise AdaptError(f"cannot load dataset '{name}' (split '{split}'): {reason}") from error
