"""`kind: merge`: add and subtract models, as in `cpt + 0.8 * (instruct - base)`."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import AfterValidator

from adapt.errors import AdaptError
from adapt.merging.free import check_names, filled
from adapt.merging.settings import SearchSettings
from adapt.stages.base import Complaint, Reads, Reference, Stage, StageContext
from merge.errors import ExpressionError, MergeError
from merge.expression import syntax
from merge.formula import Call, names_in, parse

if TYPE_CHECKING:
    from adapt.data.sources import Source
    from adapt.merging.template import Template
    from merge.planning import Merge as Plan

_BESIDE_MODEL = "adapt_vocabulary.json"


def _checked(text: str) -> str:
    try:
        syntax(text)
    except ExpressionError as error:
        raise ValueError(str(error)) from error
    return text


def _device(name: str) -> str:
    if not re.fullmatch(r"cpu|cuda(:\d+)?", name):
        raise ValueError(f"there is no device '{name}'; give cpu, cuda or cuda:N")
    return name


class Merge(Stage):
    """Add weighted differences of models to a model, with rows matched by token."""

    version: ClassVar[int] = 2

    kind: Literal["merge"]
    """Merge models."""
    expression: Annotated[str, AfterValidator(_checked)]
    """Models and numbers with + - * / ( ), as in `cpt + 0.8 * (instruct - base)`, and calls of methods, as in
    `ties(base, [a: 1, b: 0.5], density=0.3)`; `"a-b"` is a model named a-b."""
    vectors: tuple[str, ...] = ()
    """Names in the expression that are no models but LoRA adapters or saved task vectors: `base + 0.7 * lora`."""
    search: SearchSettings | None = None
    """Find coefficients: names in the expression that stand for numbers, as `w` in `cpt + w * (instruct - base)`."""
    unrelated: bool = False
    """Whether models may be merged whose weights do not look as if they came from one ancestor."""
    dtype: Literal["float32", "bfloat16", "float16"] | None = None
    """The type of the result's weights; that of the model whose vocabulary it has if it is not given."""
    vocabulary_from: str | None = None
    """Whose vocabulary and configuration the result has. Default: the first model added, or one that knows more."""
    special_from: str | None = None
    """Whose chat tokens and template the result has. Default: the chat model whose difference is added."""
    new_rows: Literal["cpt", "lep-overlap", "lep-conversion"] = "cpt"
    """Rows of tokens that only the first model has: its own (`cpt`), or carried over by learned embedding propagation,
    with a map learned from the shared tokens (`lep-overlap`) or from the whole vocabulary (`lep-conversion`)."""

    device: Annotated[str, AfterValidator(_device)] = "cpu"
    """Where the merge is computed: `cpu`, `cuda` or `cuda:N`. The models are read block by block either way."""

    def reads(self) -> Reads:
        """The models that the expression names, and what a search is judged on."""
        models = [Reference(("expression",), name) for name in self._models()]
        for key in ("vocabulary_from", "special_from"):
            if getattr(self, key) is not None:
                models.append(Reference((key,), getattr(self, key)))
        judged = self.search.sources() if self.search else {}
        return Reads(tuple(models), tuple(Reference(("search", *path), name) for path, name in judged.items()))

    def _models(self) -> tuple[str, ...]:
        free = self.search.free if self.search else {}
        return tuple(name for name in names_in(self.expression) if name not in free)

    def complaints(self, sources: Mapping[str, Source]) -> Iterator[Complaint]:
        """An expression that means no model, roles for models that it does not name, a search without a goal."""
        names = self._models()
        for key in ("vocabulary_from", "special_from"):
            name = getattr(self, key)
            if name is not None and name not in names:
                yield Complaint((key,), f"'{name}' is not in the expression; it names {', '.join(names)}")
        for place, name in enumerate(self.vectors):
            if name not in names:
                yield Complaint(("vectors", place), f"'{name}' is not in the expression; it names {', '.join(names)}")
        if self.search is not None:
            yield from self._search_complaints(self.search)
        try:
            combinations = [parse(filled(self.expression, values), self.vectors) for values in self._ends()]
        except ExpressionError as error:
            yield Complaint(("expression",), str(error))
            return
        calls = any(isinstance(term, Call) for combination in combinations for term in combination.terms)
        if self.new_rows != "cpt" and (calls or self.search):
            why = "the expression calls a method" if calls else "merge with the numbers that the search finds"
            needed = "a sum of differences of models such as cpt + (instruct - base) without free coefficients"
            yield Complaint(("new_rows",), f"'{self.new_rows}' needs {needed}; {why}")

    def _ends(self) -> list[dict[str, float]]:
        """The least values of all free coefficients, and the largest."""
        free = self.search.free if self.search else {}
        return [{name: ends[side] for name, ends in free.items()} for side in (0, 1)]

    def _search_complaints(self, search: SearchSettings) -> Iterator[Complaint]:
        if not search.sources():
            yield Complaint(("search",), "nothing says which coefficients are good; name a source with on:")
        for key in ("layers", "kinds"):
            for place, name in enumerate(getattr(search, key)):
                if name not in search.free:
                    path = ("search", key, name if key == "layers" else place)
                    yield Complaint(path, f"'{name}' is not free; free are {', '.join(search.free)}")
        try:
            check_names(search.frees(), self.expression)
        except AdaptError as error:
            yield Complaint(("search", "free"), str(error))

    def run(self, context: StageContext) -> dict[str, Any]:
        """Write `model/` and return what was decided and how the models' differences relate."""
        from merge.ancestry import check_ancestry
        from merge.device import device_of
        from merge.engine import write
        from merge.inspect import inspect
        from merge.lep import learn, with_new_rows

        model = context.folder / "model"
        shutil.rmtree(model, ignore_errors=True)
        try:
            device = device_of(self.device)
            plan, judged, searched = self._plan(context)
            if not self.unrelated:
                check_ancestry(plan)
            plan = learn(with_new_rows(plan, self.new_rows))
            with context.display.progress("merging", sum(output.size for output in plan.outputs)) as task:
                decisions = write(plan, model, progress=lambda done, _: task.update(done), device=device)
            found = inspect(judged)
        except MergeError as error:
            raise AdaptError(str(error)) from error
        beside = plan.anchor.folder / _BESIDE_MODEL
        if beside.exists():
            shutil.copyfile(beside, model / _BESIDE_MODEL)
        difference = _verify(model, decisions["output"]["tensors"], context.seed)
        metrics = decisions | found | searched | {"warnings": [*decisions["warnings"], *found["warnings"]]}
        _show(metrics, context)
        return metrics | {"reload_difference": difference}

    def _plan(self, context: StageContext) -> tuple[Plan, Plan, dict[str, Any]]:
        """The merge to write, the merge whose vectors are inspected, and what a search found."""
        from adapt.checkpoints import local_folder
        from merge.planning import dtype_of, prepare

        folders = {name: local_folder(context.models[name]) for name in self._models()}
        roles = (dtype_of(self.dtype) if self.dtype else None, self.vocabulary_from, self.special_from)
        if self.search is None:
            plan = prepare(self.expression, folders, *roles)
            return plan, plan, {}
        from adapt.merging.template import template_of

        template = template_of(self.expression, folders, self.search.frees(), *roles)
        values, record = _searched(template, self.search, context)
        return template.at(values), template.merge, {"search": record}


def _searched(
    template: Template, settings: SearchSettings, context: StageContext
) -> tuple[Mapping[str, float], dict[str, Any]]:
    """The best values and the record of the search; its trials lie in the stage's folder, so a kill loses none."""
    from adapt.merging.objective import task_goal, text_goal
    from adapt.merging.search import search

    sources = context.sources
    goals = [text_goal(name, sources[name], weight, settings.bytes) for name, weight in settings.on.items()]
    goals += [task_goal(name, sources[name], weight, settings.limit) for name, weight in settings.questions.items()]
    with context.display.progress("searching", settings.trials) as task:
        outcome = search(
            template,
            goals,
            context.folder / "search",
            settings.method,
            settings.trials,
            context.seed,
            lambda number, _, trial, value, best: task.update(number, loss=value, best=best),
        )
    return outcome.trials[outcome.best].values, outcome.record(settings.method, context.seed)


def _verify(folder: Path, hashes: Mapping[str, str], seed: int) -> float:
    """Load the result with plain transformers and compare its logits with those of the tensors as written."""
    from adapt.checkpoints import probe_ids
    from adapt.methods.reloading import proven_logits
    from merge.checkpoint import Checkpoint

    return proven_logits(folder, hashes, probe_ids(Checkpoint("result", folder).height, seed=seed))[0]


def _show(metrics: Mapping[str, Any], context: StageContext) -> None:
    rows, display = metrics["rows"], context.display
    display.line(
        f"  {metrics['expression']}: vocabulary of {metrics['vocabulary_from']}, chat tokens of "
        f"{metrics['special_from'] or 'all models'}"
    )
    display.line(
        f"  rows: {rows['shared'] + rows['partly']:,} by the formula, {rows['anchor_only']:,} only in "
        f"{metrics['vocabulary_from']}, {rows['special']:,} special, {rows['padding']:,} padding"
    )
    for matrix, maps in rows.get("lep", {}).get("maps", {}).items():
        for difference, note in maps.items():
            display.line(
                f"  {matrix}: new rows mapped by {difference}, learned from {note['learned_from']:,} rows, relative "
                f"residual {note['residual']:.3f}"
            )
    if "search" in metrics:
        best = metrics["search"]["best"]
        display.line(f"  found in {len(metrics['search']['trials'])} trials, loss {best['loss']:.4f}")
    for name, vector in metrics["vectors"].items():
        display.line(f"  |{name}| is {vector['relative_norm']:.3f} of the weights' norm")
    for names, pair in metrics["cosines"].items():
        display.line(f"  cosine of {names}: {pair['cosine']:+.3f}")
    for warning in metrics["warnings"]:
        display.line(f"  warning: {warning}", style="yellow")
