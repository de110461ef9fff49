"""`kind: merge`: add and subtract models, as in `cpt + 0.8 * (instruct - base)`."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import AfterValidator

from adapt.errors import AdaptError
from adapt.stages.base import Complaint, Reads, Reference, Stage, StageContext
from merge.errors import ExpressionError, MergeError
from merge.formula import parse

if TYPE_CHECKING:
    import torch

    from adapt.data.sources import Source

_BESIDE_MODEL = "adapt_vocabulary.json"


def _checked(text: str) -> str:
    try:
        parse(text)
    except ExpressionError as error:
        raise ValueError(str(error)) from error
    return text


class Merge(Stage):
    """Add weighted differences of models to a model, with rows matched by token."""

    version: ClassVar[int] = 1

    kind: Literal["merge"]
    """Merge models."""
    expression: Annotated[str, AfterValidator(_checked)]
    """Models and numbers with + - * / ( ), as in `cpt + 0.8 * (instruct - base)`; `"a-b"` is a model named a-b."""
    dtype: Literal["float32", "bfloat16", "float16"] | None = None
    """The type of the result's weights; that of the model whose vocabulary it has if it is not given."""
    vocabulary_from: str | None = None
    """Whose vocabulary and configuration the result has. Default: the first model added, or one that knows more."""
    special_from: str | None = None
    """Whose chat tokens and template the result has. Default: the chat model whose difference is added."""

    def reads(self) -> Reads:
        """The models that the expression names."""
        models = [Reference(("expression",), name) for name in parse(self.expression).models]
        for key in ("vocabulary_from", "special_from"):
            if getattr(self, key) is not None:
                models.append(Reference((key,), getattr(self, key)))
        return Reads(models=tuple(models))

    def complaints(self, sources: Mapping[str, Source]) -> Iterator[Complaint]:
        """Roles for models that the expression does not name."""
        names = parse(self.expression).models
        for key in ("vocabulary_from", "special_from"):
            name = getattr(self, key)
            if name is not None and name not in names:
                yield Complaint((key,), f"'{name}' is not in the expression; it names {', '.join(names)}")

    def run(self, context: StageContext) -> dict[str, Any]:
        """Write `model/` and return what was decided and how the models' differences relate."""
        from merge.engine import write
        from merge.inspect import inspect
        from merge.planning import dtype_of, prepare

        folders = {name: _folder(context, name) for name in parse(self.expression).models}
        model = context.folder / "model"
        shutil.rmtree(model, ignore_errors=True)
        try:
            dtype = dtype_of(self.dtype) if self.dtype else None
            plan = prepare(self.expression, folders, dtype, self.vocabulary_from, self.special_from)
            with context.display.progress("merging", sum(output.size for output in plan.outputs)) as task:
                decisions = write(plan, model, progress=lambda done, _: task.update(done))
            found = inspect(plan)
        except MergeError as error:
            raise AdaptError(str(error)) from error
        beside = plan.anchor.folder / _BESIDE_MODEL
        if beside.exists():
            shutil.copyfile(beside, model / _BESIDE_MODEL)
        difference = _verify(model, context.seed)
        metrics = decisions | found | {"warnings": [*decisions["warnings"], *found["warnings"]]}
        _show(metrics, context)
        return metrics | {"reload_difference": difference}


def _folder(context: StageContext, name: str) -> Path:
    """The model's folder; a hub id is looked up among what is on the disk, or downloaded."""
    location = context.models[name]
    if location.folder is not None:
        return location.folder
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError, RepositoryNotFoundError

    try:
        patterns = ["*.json", "*.safetensors", "*.jinja", "*.model", "*.txt"]
        return Path(snapshot_download(location.path, revision=location.revision, allow_patterns=patterns))
    except (HfHubHTTPError, LocalEntryNotFoundError, RepositoryNotFoundError, OSError, ValueError) as error:
        raise AdaptError(f"cannot get the model '{location.path}': {str(error).strip().splitlines()[0]}") from error


def _verify(folder: Path, seed: int) -> float:
    """Load the result with plain transformers and compare its logits with those of the tensors as written."""
    from adapt.checkpoints import verify_checkpoint

    ids, expected = _logits_as_written(folder, seed)
    return verify_checkpoint(folder, expected, ids)


def _logits_as_written(folder: Path, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits of the architecture filled tensor by tensor from the files, past every step that a loader takes."""
    import torch
    from transformers import AutoModelForCausalLM

    from adapt.checkpoints import ModelLocation, load_config, probe_ids
    from merge.checkpoint import Checkpoint

    written = Checkpoint("result", folder)
    model = AutoModelForCausalLM.from_config(load_config(ModelLocation(str(folder))), dtype=torch.float32).eval()
    state = {name: written.tensor(name).float() for name in written.tensors}
    missing, unexpected = model.load_state_dict(state, strict=False)
    tied = model.get_output_embeddings().weight is model.get_input_embeddings().weight
    if unexpected or (missing and not (tied and written.head is None)):
        names = ", ".join([*unexpected, *missing][:3])
        raise AdaptError(f"the tensors of '{folder}' are not those of {type(model).__name__}: {names}")
    ids = probe_ids(written.height, seed=seed)
    with torch.inference_mode():
        return ids, model(input_ids=ids, use_cache=False).logits.float()


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
    for name, vector in metrics["vectors"].items():
        display.line(f"  |{name}| is {vector['relative_norm']:.3f} of the weights' norm")
    for names, pair in metrics["cosines"].items():
        display.line(f"  cosine of {names}: {pair['cosine']:+.3f}")
    for warning in metrics["warnings"]:
        display.line(f"  warning: {warning}", style="yellow")
