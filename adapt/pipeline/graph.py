"""What a run is made of, without knowing how it was written down: stages, and what each of them reads."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from adapt.errors import AdaptError

if TYPE_CHECKING:
    from adapt.checkpoints import ModelLocation
    from adapt.data.sources import Source
    from adapt.launch.settings import Launch
    from adapt.stages.base import Stage


@dataclass(frozen=True)
class Graph:
    """One recipe's stages in the order of its file, with the models and sources that they may name.

    A name that a stage reads as a model is an earlier stage's name or one of `models`; the stage goes first.
    """

    recipe: str
    seed: int
    runs: Path
    models: Mapping[str, ModelLocation]
    sources: Mapping[str, Source]
    stages: Mapping[str, Stage]
    description: str = ""
    file: Path | None = None
    launch: Launch | None = None

    @property
    def folder(self) -> Path:
        """Where all folders of this recipe lie: `runs/<recipe>`."""
        return Path(self.runs) / self.recipe

    @property
    def cache(self) -> Path:
        """What may be deleted at any time and is shared by all recipes: hashes of files, tokens."""
        return Path(self.runs) / ".cache"

    def stage(self, name: str) -> Stage:
        """The stage of that name. Raises AdaptError with the nearest name where there is none."""
        if name not in self.stages:
            near = difflib.get_close_matches(name, self.stages, n=1)
            hint = f"did you mean '{near[0]}'?" if near else f"there are: {', '.join(self.stages)}"
            raise AdaptError(f"recipe '{self.recipe}' has no stage '{name}'; {hint}")
        return self.stages[name]

    def input_names(self, name: str) -> tuple[str, ...]:
        """The names that the stage reads as models, each once: stages and models of the recipe."""
        return tuple(dict.fromkeys(reference.name for reference in self.stage(name).reads().models))

    def input_stages(self, name: str) -> tuple[str, ...]:
        """The stages whose output this stage reads itself, each once, in the order in which it names them."""
        return tuple(read for read in self.input_names(name) if read in self.stages)

    def input_models(self, name: str) -> tuple[str, ...]:
        """The models of the recipe that this stage reads. Raises AdaptError for a name that nothing has."""
        models = tuple(read for read in self.input_names(name) if read not in self.stages)
        return tuple(self._known(name, model, "model or stage", self.models) for model in models)

    def input_sources(self, name: str) -> tuple[str, ...]:
        """The sources that this stage reads. Raises AdaptError for a name that nothing has."""
        sources = dict.fromkeys(reference.name for reference in self.stage(name).reads().sources)
        return tuple(self._known(name, source, "source", self.sources) for source in sources)

    def _known(self, stage: str, name: str, what: str, names: Iterable[str]) -> str:
        if name not in names:
            raise AdaptError(f"stage '{stage}' reads '{name}', but there is no {what} of that name")
        return name

    def upstream(self, name: str) -> frozenset[str]:
        """All stages whose output this stage depends on, directly or through others."""
        return self._reachable([name], self.input_stages)

    def downstream(self, names: Iterable[str]) -> frozenset[str]:
        """All stages that depend on one of `names`, directly or through others."""
        readers: dict[str, list[str]] = {name: [] for name in self.stages}
        for reader in self.stages:
            for read in self.input_stages(reader):
                readers[read].append(reader)
        return self._reachable(names, readers.__getitem__)

    @staticmethod
    def _reachable(names: Iterable[str], following) -> frozenset[str]:
        found: set[str] = set()
        waiting = list(names)
        while waiting:
            for name in following(waiting.pop()):
                if name not in found:
                    found.add(name)
                    waiting.append(name)
        return frozenset(found)

    def order(self, until: str | None = None) -> tuple[str, ...]:
        """The stages so that each comes after what it reads, otherwise in the order of the file.

        With `until`, only that stage and what it depends on. Raises AdaptError for an unknown stage or a cycle.
        """
        wanted = self.stages if until is None else self.upstream(until) | {until}
        waiting = [name for name in self.stages if name in wanted]
        done: dict[str, None] = {}
        while waiting:
            ready = next((name for name in waiting if all(read in done for read in self.input_stages(name))), None)
            if ready is None:
                raise AdaptError(f"stages of recipe '{self.recipe}' read each other in a circle: {', '.join(waiting)}")
            waiting.remove(ready)
            done[ready] = None
        return tuple(done)
