"""What a kind of stage is: settings that a person writes, what it reads, and one function that does the work."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from adapt.launch.settings import Launch
from adapt.launch.world import ALONE, World
from adapt.settings import Settings

if TYPE_CHECKING:
    from adapt.checkpoints import ModelLocation
    from adapt.data.sources import Source
    from adapt.display import Display
    from adapt.log import Log


@dataclass(frozen=True)
class Reference:
    """A name that a stage's settings use: where it stands below the stage (`("mixture", "target")`) and the name.

    `part` is what of a stage is meant, if it is not its model: its `adapter`, its `mixture`.
    """

    path: tuple[str | int, ...]
    name: str
    part: str = ""


@dataclass(frozen=True)
class Reads:
    """What a stage reads: models (names under `models:` or of earlier stages) and sources (names under `data:`)."""

    models: tuple[Reference, ...] = ()
    sources: tuple[Reference, ...] = ()


@dataclass(frozen=True)
class Complaint:
    """Something wrong inside one stage that its fields alone cannot show: the place below the stage, and a message."""

    path: tuple[str | int, ...]
    message: str


@dataclass(frozen=True)
class StageContext:
    """All that a stage is given to work with.

    `folder` is the stage's unfinished folder. It survives a kill, so what a stage finds there on entry is its own
    earlier work; when `run` returns, the pipeline writes the manifest and renames the folder into place.
    `models` and `sources` hold every name that the stage said it reads.
    """

    recipe: str
    stage: str
    seed: int
    folder: Path
    cache: Path
    models: Mapping[str, ModelLocation]
    sources: Mapping[str, Source]
    display: Display
    log: Log
    upstream: Mapping[str, Path] = field(default_factory=dict)
    """Folders of the finished stages that it reads, by name (for their manifests)."""
    world: World = ALONE
    """The processes that do the stage together."""


class Stage(Settings, ABC):
    """Base of all kinds of stage."""

    version: ClassVar[int] = 1
    """Raised when the code changes what the stage makes, so that old folders are not taken for new ones."""
    makes_model: ClassVar[bool] = True
    """Whether `folder/model` is a checkpoint that later stages may name."""
    unkeyed: ClassVar[frozenset[str]] = frozenset()
    """Fields that cannot change what the stage makes (where progress is logged, say) and so stay out of its key."""
    parallel: ClassVar[bool] = False
    """Whether several processes can do the stage together."""

    @property
    def parts(self) -> tuple[str, ...]:
        """What the stage makes besides a model that other stages may name: `adapter`, `mixture`."""
        return ()

    @abstractmethod
    def reads(self) -> Reads:
        """The names that the stage refers to."""

    def complaints(self, sources: Mapping[str, Source]) -> Iterator[Complaint]:
        """What does not fit together, seen before anything runs. `sources` holds all of the recipe's sources."""
        return iter(())

    def launched(self, launch: Launch | None) -> Launch:
        """The processes that do the stage, where a recipe says `launch`."""
        return launch or Launch()

    def unfit(self, launch: Launch) -> Iterator[Complaint]:
        """What of the stage several processes cannot do together."""
        return iter(())

    def files(self) -> Iterator[Path]:
        """Files that the stage's own settings name and that it reads; their content belongs to its key."""
        return iter(())

    def relative_to(self, folder: Path) -> Stage:
        """The same stage; files that its settings name and that are not here are looked up in `folder`."""
        return self

    @abstractmethod
    def run(self, context: StageContext) -> dict[str, Any]:
        """Do the work below `context.folder` and return what goes into the manifest under `metrics`."""
