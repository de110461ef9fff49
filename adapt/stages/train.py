"""`kind: train`: continue the training of a model on a mixture of sources, with a method and a schedule."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from adapt.launch.settings import Launch
from adapt.methods import AnyMethod
from adapt.settings import Count, Positive, Share
from adapt.stages import fit
from adapt.stages.base import Complaint, Reads, Reference, Stage, StageContext
from adapt.training.objectives import AnyObjective
from adapt.training.objectives.causal_lm import CausalLm
from adapt.training.optimizer import Optimizer
from adapt.training.optimizers import AnyOptimizer
from adapt.training.precision import PrecisionChoice
from adapt.training.rows import HoldRows
from adapt.training.schedules import AnySchedule
from adapt.training.schedules.rewarm_cosine import RewarmCosine

if TYPE_CHECKING:
    from pathlib import Path

    from adapt.data.sources import Source


class Train(Stage):
    """Train a model on text, conversations or pairs of answers, with TRL's trainers."""

    version: ClassVar[int] = 1
    parallel: ClassVar[bool] = True
    unkeyed: ClassVar[frozenset[str]] = frozenset({"launch"})

    kind: Literal["train"]
    """The kind of stage."""
    model: str
    """The model to start from: a name under `models:` or of an earlier stage."""
    objective: AnyObjective = CausalLm()
    """What is learned: every token of plain text (`causal_lm`), only the assistant's tokens of conversations (`sft`),
    which of two answers is preferred (`dpo`, `orpo`), or what another model makes of it (`distil`)."""
    mixture: dict[str, Share]
    """Sources and their shares of the tokens; they sum to 1. Replay is a source like any other."""
    method: AnyMethod
    """What trains, and how: full, half and other parts of the weights, lora, qlora, loram, pruned, rows."""
    schedule: AnySchedule = RewarmCosine()
    """The learning rate over the run."""
    optimizer: AnyOptimizer = Optimizer()
    """The optimiser and its settings."""
    tokens: Count | None = None
    """How many tokens to train on, all sources together. Either this or `epochs`."""
    epochs: Positive | None = None
    """How often to read the sources; the one that its share exhausts first is read so often. Either this or `tokens`.
    """
    sequence_length: Count = 1024
    """Tokens in one packed sequence; of a pair, in each of the two answers with its prompt."""
    batch_size: Count = 8
    """Sequences, or pairs of answers, that go through the model of one process at once."""
    gradient_accumulation: Count = 1
    """Batches whose gradients are added before an update; the loss is normalised over all of their tokens. Several
    processes share them, so an update reads the same rows in one process and in many."""
    packing: Literal["best_fit", "concatenate"] = "best_fit"
    """How documents fill sequences: whole where they fit (`best_fit`), or one after the other, cut at the end. Answers
    are always whole, and pairs of answers are not packed."""
    attention: Literal["auto", "sdpa", "flash_attention_2"] = "auto"
    """The attention kernel; `auto` takes FlashAttention where it is installed and there is a GPU, else the one that the
    model has: `sdpa`, or plain attention for families such as Gemma 2."""
    precision: PrecisionChoice = "auto"
    """Number format of the products; `auto` takes bf16 where the hardware is good at it. What trains stays in
    float32."""
    gradient_checkpointing: bool = False
    """Compute activations again in the backward pass instead of keeping them: less memory, a quarter more time."""
    activation_offloading: bool = False
    """Keep activations in main memory until the backward pass needs them: less memory of the GPU, some more time."""
    hold_rows: HoldRows | None = None
    """Embedding rows that stay still though the embeddings train: those of special, added and chat tokens
    (`special`), or `none`. Empty: `special` for causal_lm, else `none`."""
    general: str | None = None
    """The source of general text on whose held-out part forgetting is measured. Empty: the one called `general`, if
    it is in the mixture."""
    evaluations: Count = 5
    """How often the held-out text is measured in the run, besides before its first step."""
    evaluation_bytes: Count = 50_000
    """Bytes of held-out text of each source that are measured."""
    checkpoints: Count = 5
    """How often the state is saved in the run, so that a killed run can go on from there."""
    keep_checkpoints: Count = 1
    """How many of these states are kept at a time; all are removed when the stage is finished."""
    continue_from: str | None = None
    """An earlier train stage with schedule `infinite`, from whose state before its anneal this one goes on."""
    report_to: tuple[Literal["tensorboard", "wandb", "trackio"], ...] = ("tensorboard",)
    """Where the curves go besides `log.jsonl`."""
    launch: Launch | None = None
    """What this stage does otherwise than the recipe's `launch` says; `{processes: 1}` is one process for it alone."""

    @property
    def parts(self) -> tuple[str, ...]:
        """What the method makes."""
        return self.method.makes

    def reads(self) -> Reads:
        """The model, the stage to go on from, the mixture's sources and the general text."""
        models = [Reference(("model",), self.model)]
        if self.continue_from is not None:
            models.append(Reference(("continue_from",), self.continue_from))
        for key, part in (("objective", self.objective), ("method", self.method)):
            models += [Reference((key, *path), *names) for path, *names in part.references()]
        sources = [Reference(("mixture", name), name) for name in self.mixture]
        if self.general is not None:
            sources.append(Reference(("general",), self.general))
        return Reads(models=tuple(models), sources=tuple(sources))

    def complaints(self, sources: Mapping[str, Source]) -> Iterator[Complaint]:
        """Shares, budget, objective and data, and what method and schedule find wrong in themselves."""
        total = sum(self.mixture.values())
        if abs(total - 1) > 1e-6:
            yield Complaint(("mixture",), f"the shares sum to {total:g}; they must sum to 1")
        if (self.tokens is None) == (self.epochs is None):
            yield Complaint(("tokens",), "give either tokens or epochs")
        for part, key in ((self.method, "method"), (self.schedule, "schedule"), (self.objective, "objective")):
            for field, message in getattr(part, "conflicts", tuple)():
                yield Complaint((key, field), message)
        for field, message in self.method.conflicts_with(self.optimizer):
            yield Complaint(("method", field), message)
        for name in self.report_to:
            if find_spec(name) is None:
                yield Complaint(("report_to",), f"the package '{name}' is not installed; pip install {name}")
        yield from fit.with_sources(self, sources)
        if self.continue_from is not None and self.schedule.kind != "infinite":
            yield Complaint(("continue_from",), f"needs schedule 'infinite', this stage has '{self.schedule.kind}'")

    def launched(self, launch: Launch | None) -> Launch:
        """The recipe's, with what the stage says of its own."""
        return super().launched(launch).changed_by(self.launch)

    def unfit(self, launch: Launch) -> Iterator[Complaint]:
        """What of the stage several processes cannot do together."""
        return fit.with_processes(self, launch)

    def files(self) -> Iterator[Path]:
        """Files that the method names."""
        return self.method.files()

    def relative_to(self, folder: Path) -> Train:
        """The method's files that are not here are looked up in `folder`."""
        return self.model_copy(update={"method": self.method.relative_to(folder)})

    @property
    def held(self) -> HoldRows:
        """The rule for special rows that applies."""
        return self.hold_rows or self.objective.hold

    @property
    def general_source(self) -> str | None:
        """The source on which forgetting is measured."""
        return self.general or ("general" if "general" in self.mixture else None)

    def run(self, context: StageContext) -> dict[str, Any]:
        """Train, check, write `model/` (and `adapter/` or `mixture/`), and return the numbers."""
        from adapt.planning.during import beside, out_of_memory
        from adapt.stages.preparation import prepare, trained

        with out_of_memory(self, context):
            run, kept, meter = prepare(self, context)
            with meter.watch(run.model):
                metrics = run.execute(kept)
        if not context.world.main:
            return metrics
        metrics["plan"] = beside(self, context, run, meter)
        for name in ("model", "adapter", "mixture"):
            shutil.rmtree(context.folder / name, ignore_errors=True)
        metrics |= self.method.save(trained(self, context, run), context.folder)
        metrics["sources"] = run.stream.reports
        if self.objective.form == "sft":
            from adapt.training.chat import stop_numbers

            metrics["stop"] = stop_numbers(run.tokenizer, run.stream, context.display)
        shutil.rmtree(context.folder / "checkpoints", ignore_errors=True)
        return metrics
