"""The search for a merge's coefficients from files: what `adapt merge search` does, from Python as well."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from adapt.merging.free import check_names, free_of
from adapt.merging.objective import goals_of
from adapt.merging.template import Template, template_of

if TYPE_CHECKING:
    from adapt.merging.objective import Goal
    from adapt.merging.search import Outcome, Report


def search_merge(
    expression: str,
    models: Mapping[str, str | Path],
    free: Sequence[str],
    folder: str | Path,
    *,
    text: Sequence[str | Path] = (),
    task: Sequence[str | Path] = (),
    method: Literal["grid", "random", "tpe", "cma"] = "grid",
    trials: int = 16,
    seed: int = 0,
    size: int = 100_000,
    questions: int = 200,
    report: Report | None = None,
) -> Outcome:
    """Look for the coefficients of a merge that predict held-out text best, or answer most questions.

    outcome = adapt.search_merge(
        "base + w * (uk - base)", {"uk": "runs/uk", "base": "org/model"}, ["w=0..1.5"], "found", text=["uk.txt"]
    )

    `free` names the numbers in the expression with their ranges: `w=0..1.5`, `w:layers=4=0..1.5` (one for each quarter
    of the layers), `w:kinds=0..1.5` (one for each kind of module). `text` and `task` are files with or without a weight
    (`uk.txt:0.7`): text is predicted (`size` bytes of it), rows with `prompt` and `answer` are asked. What was scored
    is kept in `folder`, with `search.json` and `curve.png`, so that a stopped search goes on. Raises AdaptError and
    MergeError as the command does.
    """
    goals = goals_of([str(file) for file in text], [str(file) for file in task], size, questions)
    template = template_from(expression, {name: str(place) for name, place in models.items()}, free)
    return searched(template, goals, Path(folder), method, trials, seed, report)


def template_from(
    expression: str,
    places: dict[str, str],
    free: Sequence[str],
    dtype: str | None = None,
    vocabulary_from: str | None = None,
    special_from: str | None = None,
) -> Template:
    """The plan of an expression with free numbers; `places` are folders or hub ids by the expression's names."""
    from merge.formula import names_in
    from merge.locations import folders_of
    from merge.planning import dtype_of

    frees = free_of(free)
    check_names(frees, expression, places)
    names = [name for name in names_in(expression) if name not in {found.name for found in frees}]
    kind = dtype_of(dtype) if dtype else None
    return template_of(expression, folders_of(names, places), frees, kind, vocabulary_from, special_from)


def searched(
    template: Template,
    goals: Sequence[Goal],
    folder: Path,
    method: str,
    trials: int,
    seed: int,
    report: Report | None = None,
) -> Outcome:
    """Search, and write `search.json` and `curve.png` beside the trials."""
    from adapt.merging.search import search
    from adapt.report.search_curve import curve

    outcome = search(template, goals, folder, method, trials, seed, report)
    record = outcome.record(method, seed)
    text = json.dumps(record, indent=2, ensure_ascii=False) + "\n"
    (folder / "search.json").write_text(text, encoding="utf-8")
    curve(record).savefig(folder / "curve.png", dpi=140, metadata={"Software": None})
    return outcome
