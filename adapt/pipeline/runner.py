"""Runs what is missing of a graph of stages, one stage after the other."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from adapt.checkpoints import ModelLocation
from adapt.display import Display, duration_text, size_text
from adapt.errors import AdaptError
from adapt.log import Log
from adapt.pipeline.catalogue import note_current
from adapt.pipeline.crew import Crew, crew_of
from adapt.pipeline.failures import StoppedError, explained
from adapt.pipeline.folders import MANIFEST, STARTED, StageFolders, bytes_below, remove, sync_tree, write_json
from adapt.pipeline.graph import Graph
from adapt.pipeline.hashes import HashCache
from adapt.pipeline.headline import headline
from adapt.pipeline.keys import Fingerprints, Keys
from adapt.pipeline.lock import RunLock
from adapt.pipeline.manifest import read_manifest, verify
from adapt.pipeline.outcome import Outcome, StageResult
from adapt.pipeline.plan import REVISIONS, Step, commits, decide, forced_stages, keyed_kind, read_draft, tentative
from adapt.pipeline.process import is_main_process
from adapt.pipeline.record import close_killed_session, completed, draft
from adapt.stages.base import StageContext


def run(
    graph: Graph, display: Display, until: str | None = None, force: Collection[str] = (), dry_run: bool = False
) -> Outcome:
    """Make every stage that is not finished yet, and return the folders of all.

    `until`: stop after this stage and leave out what it does not depend on. `force`: make these stages, and what
    depends on them, again from the beginning. `dry_run`: only say what would be done and why.
    Raises AdaptError for a failure of the world outside, naming the stage; StoppedError for Ctrl-C. In every case
    finished stages stay finished and the unfinished stage's folder is kept for the next run to go on with.
    """
    if not is_main_process():
        raise AdaptError("a run is led by the first process of a launcher, and this one has a RANK above 0")
    names = graph.order(until)
    forced = forced_stages(graph, names, frozenset(force))
    hashes = HashCache(graph.cache / "hashes.json")
    try:
        if dry_run:
            return _dry_run(graph, display, hashes, names, forced)
        crew = crew_of(graph.launch, {name: graph.stage(name) for name in names})
        ok = False
        try:
            with RunLock(graph.folder):
                outcome = _Run(graph, display, hashes, forced, crew).stages(names)
            ok = True
            return outcome
        finally:
            crew.end(ok)
    except OSError as error:
        found = explained(error, f"recipe '{graph.recipe}'", graph.folder)
        if found is None:
            raise
        raise found from error
    except KeyboardInterrupt as error:
        raise StoppedError(f"stopped; what is finished of recipe '{graph.recipe}' is kept") from error


def _dry_run(
    graph: Graph, display: Display, hashes: HashCache, names: tuple[str, ...], forced: Mapping[str, str]
) -> Outcome:
    keys = Keys(graph, Fingerprints(graph, hashes, commits(graph)))
    outcome = Outcome()
    words = {"keep": "is finished", "run": "would run", "resume": "would go on", "finish": "would be finished"}
    for step in tentative(graph, keys, names, forced):
        kept = step.action == "keep"
        manifest = read_manifest(step.folders.finished) if kept else {}
        outcome.stages[step.name] = StageResult(step.folders.finished, "kept" if kept else "pending", manifest)
        reason = f" ({step.reason})" if step.reason else ""
        display.line(f"{step.name} {words[step.action]}{reason}: {step.folders.finished}")
    return outcome


class _Run:
    """One run under the lock: the stages' folders and outcomes so far."""

    def __init__(
        self, graph: Graph, display: Display, hashes: HashCache, forced: Mapping[str, str], crew: Crew
    ) -> None:
        self._graph, self._display, self._hashes, self._forced, self._crew = graph, display, hashes, forced, crew
        self._commits = commits(graph)
        self._noted = dict(self._commits)
        self._keys = Keys(graph, Fingerprints(graph, hashes, self._commits))
        self._results: dict[str, StageResult] = {}

    def stages(self, names: tuple[str, ...]) -> Outcome:
        """Bring every stage to its finished folder."""
        for name in names:
            self._keys.of(name)  # all inputs are read before the first stage starts: hours later is too late to fail
        self._save()
        note_current(self._graph, {name: self._keys.of(name).key for name in names})
        for name in names:
            self._results[name] = self._stage(name)
        self._hashes.save()
        if all(result.state == "kept" for result in self._results.values()):
            stages = "stage is" if len(names) == 1 else f"{len(names)} stages are"
            self._display.line(f"nothing to do: the {stages} finished")
        return Outcome(dict(self._results))

    def _save(self) -> None:
        self._hashes.save()
        if self._commits != self._noted:
            write_json(self._graph.folder / REVISIONS, self._commits)
            self._noted = dict(self._commits)

    def _stage(self, name: str) -> StageResult:
        key = self._keys.of(name)
        folders = StageFolders(self._graph.folder / name, key.key)
        step = decide(name, key, folders, self._outcomes(name), self._forced.get(name, ""))
        folders.sweep()
        self._tell_leftovers(step)
        if step.action == "keep":
            manifest = read_manifest(folders.finished)
            verify(folders.finished, manifest)
            remove(folders.replaced)
            self._display.line(f"{name} is finished: {folders.finished}")
            return StageResult(folders.finished, "kept", manifest)
        try:
            manifest = self._made(step) if step.action == "finish" else self._make(step)
            folders.finish()
        except KeyboardInterrupt as error:
            begun = folders.partial.exists()
            kept = f"; its work so far is kept in '{folders.partial}'" if begun else " before it began"
            raise StoppedError(f"stopped in stage '{name}'{kept}: run again to go on") from error
        except Exception as error:
            found = explained(error, f"stage '{name}'", folders.partial)
            if found is None:
                raise
            raise found from error
        self._tell_done(step, manifest)
        return StageResult(folders.finished, "done", manifest)

    @staticmethod
    def _made(step: Step) -> dict[str, Any]:
        """The manifest of a partial folder that a kill left complete."""
        manifest = read_manifest(step.folders.partial)
        verify(step.folders.partial, manifest)
        return manifest

    def _outcomes(self, name: str) -> dict[str, str]:
        return {read: self._results[read].manifest["outcome"] for read in self._graph.input_stages(name)}

    def _make(self, step: Step) -> dict[str, Any]:
        """Run the stage and leave its partial folder complete and on the disk, with the manifest as the last file."""
        folder = step.folders.partial
        started = self._start(step)
        self._check_inputs(step.name)
        self._check_read(step)
        log = Log(folder / "log.jsonl")
        log.write("session", resumed=step.action == "resume", key=step.key.key)
        metrics = self._crew.run(self._graph.stage(step.name), self._context(step, log))
        if not self._graph.stage(step.name).parallel:  # training has kept its texts' tokens since it began
            try:
                self._check_read(step)
            except AdaptError:
                remove(folder)
                raise
        if self._graph.stage(step.name).makes_model and not (folder / "model" / "config.json").is_file():
            raise RuntimeError(f"stage '{step.name}' ended without a checkpoint in '{folder / 'model'}'")
        manifest = completed(started, metrics, folder)
        sync_tree(folder)
        write_json(folder / MANIFEST, manifest)
        return manifest

    def _start(self, step: Step) -> dict[str, Any]:
        """Make the partial folder, or take up what is there, and note in it what it is made from."""
        folder = step.folders.partial
        earlier = None
        if step.action == "resume":
            earlier = close_killed_session(read_draft(step.folders) or {"sessions": []}, folder)
        else:
            step.folders.set_aside()
            remove(folder)
            folder.mkdir(parents=True)
        started = draft(self._graph, step.name, step.key, self._outcomes(step.name), earlier)
        write_json(folder / STARTED, started)
        kind = keyed_kind(self._graph, step.name)
        self._display.line(f"{step.name} ({kind}) starts in {folder} ({step.reason})", style="bold")
        return started

    def _check_inputs(self, name: str) -> None:
        """Read through the finished stages that this one needs: a corrupt shard is found before hours are spent."""
        for read in self._graph.input_stages(name):
            result = self._results[read]
            if result.state == "kept":
                verify(result.folder, dict(result.manifest), self._hashes)
        self._hashes.save()

    def _check_read(self, step: Step) -> None:
        """A key says what a stage reads; if that changes in the middle, the stage's folder would belong to no key."""
        fresh = Fingerprints(self._graph, self._hashes, self._commits)
        for what, look in (("source", fresh.source), ("model", fresh.model)):
            for name, known in step.key.material["inputs"][f"{what}s"].items():
                if look(name) != known:
                    raise AdaptError(f"{what} '{name}' changed while the recipe ran; run again with what it is now")

    def _context(self, step: Step, log: Log) -> StageContext:
        graph, name = self._graph, step.name
        folders = {read: self._results[read].folder for read in graph.input_stages(name)}
        models = {read: ModelLocation(str(folder / "model")) for read, folder in folders.items()}
        models |= {read: self._keys.fingerprints.location(read) for read in graph.input_models(name)}
        return StageContext(
            recipe=graph.recipe,
            stage=name,
            seed=graph.seed,
            folder=step.folders.partial,
            cache=graph.cache,
            models=models,
            sources={
                read: graph.sources[read].expecting(self._keys.fingerprints.source(read)["content"])
                for read in graph.input_sources(name)
            },
            display=self._display,
            log=log,
            upstream=folders,
        )

    def _tell_leftovers(self, step: Step) -> None:
        for folder in step.folders.leftovers():
            size = size_text(bytes_below(folder))
            self._display.line(
                f"{step.name}: '{folder}' ({size}) is unfinished work of other settings; delete it at will"
            )

    def _tell_done(self, step: Step, manifest: Mapping[str, Any]) -> None:
        seconds = duration_text(manifest["times"]["seconds"])
        numbers = headline(manifest["metrics"])
        self._display.line(
            f"{step.name} is done in {seconds}: {step.folders.finished}" + (f"  {numbers}" if numbers else "")
        )
