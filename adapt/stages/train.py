"""`kind: train`: continue the training of a model on a mixture of sources, with a method and a schedule."""

from __future__ import annotations

import math
import shutil
from collections.abc import Iterator, Mapping
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from adapt.errors import AdaptError
from adapt.launch.settings import Launch, share_of
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
    from adapt.methods.base import Trained
    from adapt.training.companion import Companion
    from adapt.training.monitor import Monitor
    from adapt.training.plan import Plan
    from adapt.training.precision import Precision
    from adapt.training.run import Run

_LOG_LINES = 200
"""About as many lines of loss does a run write."""
_PROBE_LENGTH = 128
"""Tokens in each row on which the written model is compared with the live one."""


class Train(Stage):
    """Train a model on text, conversations or pairs of answers, with TRL's trainers."""

    version: ClassVar[int] = 1
    parallel: ClassVar[bool] = True

    kind: Literal["train"]
    """The kind of stage."""
    model: str
    """The model to start from: a name under `models:` or of an earlier stage."""
    objective: AnyObjective = CausalLm()
    """What is learned: every token of plain text (`causal_lm`), only the assistant's tokens of conversations (`sft`),
    or which of two answers is preferred (`dpo`, `orpo`)."""
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
    """The attention kernel; `auto` takes FlashAttention where it is installed and there is a GPU."""
    precision: PrecisionChoice = "auto"
    """Number format of the products; `auto` takes bf16 where the hardware is good at it. What trains stays in
    float32."""
    gradient_checkpointing: bool = False
    """Compute activations again in the backward pass instead of keeping them: less memory, about a quarter more time.
    """
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

    def reads(self) -> Reads:
        """The model, the stage to go on from, the mixture's sources and the general text."""
        models = [Reference(("model",), self.model)]
        if self.continue_from is not None:
            models.append(Reference(("continue_from",), self.continue_from))
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
        for name in self.report_to:
            if find_spec(name) is None:
                yield Complaint(("report_to",), f"the package '{name}' is not installed; pip install {name}")
        yield from fit.with_sources(self, sources)
        if self.continue_from is not None and self.schedule.kind != "infinite":
            yield Complaint(("continue_from",), f"needs schedule 'infinite', this stage has '{self.schedule.kind}'")

    def unfit(self, launch: Launch) -> Iterator[Complaint]:
        """What of the stage several processes cannot do together."""
        return fit.with_processes(self, launch)

    @property
    def held(self) -> HoldRows:
        """The rule for special rows that applies."""
        return self.hold_rows or self.objective.hold

    @property
    def general_source(self) -> str | None:
        """The source on which forgetting is measured."""
        return self.general or ("general" if "general" in self.mixture else None)

    def run(self, context: StageContext) -> dict[str, Any]:
        """Train, check, write `model/` (and `adapter/`), and return the numbers."""
        run, kept = self._prepare(context)
        metrics = run.execute(kept)
        if not context.world.main:
            return metrics
        for name in ("model", "adapter"):
            shutil.rmtree(context.folder / name, ignore_errors=True)
        metrics |= self.method.save(self._trained(context, run), context.folder)
        metrics["sources"] = run.stream.reports
        if self.objective.kind == "sft":
            from adapt.training.chat import stop_numbers

            metrics["stop"] = stop_numbers(run.tokenizer, run.stream, context.display)
        shutil.rmtree(context.folder / "checkpoints", ignore_errors=True)
        return metrics

    def _prepare(self, context: StageContext) -> tuple[Run, Path | None]:
        """Load everything, the data first: what is wrong there is seen before a large model is read."""
        from transformers import set_seed

        from adapt.checkpoints import load_config, load_tokenizer
        from adapt.training import precision
        from adapt.training.batches import first_batches, pad_id
        from adapt.training.run import Run

        location = context.models[self.model]
        tokenizer, config = load_tokenizer(location), load_config(location).get_text_config()
        self._check_context(config)
        stream = context.world.first(lambda: self._stream(context, tokenizer))
        choice = precision.choose(self.precision, config.hidden_size)
        attention = precision.attention(self.attention, choice)
        kept, offset = self._continued(context)
        plan = self._plan(context, len(stream), choice, offset)
        set_seed(context.seed)
        form = pad_id(tokenizer), attention == "flash_attention_2"
        batches = first_batches(stream, self.objective.model_collator(*form), self.batch_size)
        model = self.method.build(location, choice, batches, attn_implementation=attention)
        run = Run(
            model=model,
            rows=self.method.rows(model, self.held, location, tokenizer),
            tokenizer=tokenizer,
            stream=stream,
            collate=self.objective.collator(*form),
            plan=plan,
            monitor=self._monitor(context, tokenizer, choice),
            general=self.general_source,
            evaluations=self.evaluations,
            bytes_per_token=stream.bytes_per_token if self.objective.kind == "causal_lm" else None,
            folder=context.folder,
            display=context.display,
            log=context.log,
            tensorboard="tensorboard" in self.report_to,
            companions=(*self.method.companions(model, context.seed), *self._measures(context, tokenizer, plan.steps)),
            make_trainer=self.objective.trainer,
        )
        return run, kept

    def _continued(self, context: StageContext) -> tuple[Path | None, int]:
        """The state to begin with and the updates that led to it; None and 0 for a stage that goes on from nothing."""
        from adapt.training.run import before_anneal

        if self.continue_from is None:
            return None, 0
        if self.continue_from not in context.upstream:
            raise AdaptError(f"continue_from: '{self.continue_from}' is no stage of this recipe; name a train stage")
        return before_anneal(context.upstream[self.continue_from])

    def _check_context(self, config: Any) -> None:
        positions = getattr(config, "max_position_embeddings", None)
        if positions is not None and self.sequence_length > positions:
            raise AdaptError(
                f"sequence_length is {self.sequence_length}, but the model '{self.model}' has {positions} positions; "
                f"set sequence_length to at most {positions}"
            )

    def _measures(self, context: StageContext, tokenizer: Any, steps: int) -> tuple[Companion, ...]:
        from adapt.data.sources import held_out_documents
        from adapt.training.callbacks import evaluation_steps

        documents = (
            document
            for name in self.mixture
            for document in held_out_documents(context.sources[name], self.evaluation_bytes)
        )
        at = evaluation_steps(steps, self.evaluations)
        return self.objective.companions(documents, tokenizer, self.sequence_length, at)

    def _stream(self, context: StageContext, tokenizer: Any) -> Any:
        stream = self.objective.stream(
            context.sources,
            self.mixture,
            tokenizer,
            sequence_length=self.sequence_length,
            packing=self.packing,
            seed=context.seed,
            cache=context.cache,
            tokens=self.tokens,
            epochs=self.epochs,
            multiple=self.batch_size * self.gradient_accumulation,
            display=context.display,
        )
        self.objective.show(context.display, stream, tokenizer)
        return stream

    def _plan(self, context: StageContext, rows: int, precision: Precision, offset: int) -> Plan:
        from adapt.training.plan import Plan
        from adapt.training.precision import check_offloading

        steps = rows // (self.batch_size * self.gradient_accumulation)
        self.schedule.check(offset, offset + steps)
        self.optimizer.check(precision.device.type)
        check_offloading(self.activation_offloading, precision.device.type)
        rows_at_once, batches = share_of(self.batch_size, self.gradient_accumulation, context.world.size)
        return Plan(
            steps=steps,
            batch_size=rows_at_once,
            accumulation=batches,
            schedule=self.schedule,
            optimizer=self.optimizer,
            precision=precision,
            seed=context.seed,
            checkpoint_every=math.ceil(steps / self.checkpoints),
            keep_checkpoints=self.keep_checkpoints,
            log_every=max(1, steps // _LOG_LINES),
            gradient_checkpointing=self.gradient_checkpointing,
            activation_offloading=self.activation_offloading,
            report_to=tuple(name for name in self.report_to if name != "tensorboard"),
            offset=offset,
            world=context.world,
        )

    def _monitor(self, context: StageContext, tokenizer: Any, precision: Precision) -> Monitor:
        from adapt.training.monitor import monitor_of

        names = dict.fromkeys([*self.mixture, *([self.general_source] if self.general_source else [])])
        sources = {name: context.sources[name] for name in names}
        sizes = self.sequence_length, self.evaluation_bytes
        return monitor_of(sources, tokenizer, self.objective.kind, *sizes, precision, context.display)

    def _trained(self, context: StageContext, run: Run) -> Trained:
        from adapt.methods.base import Trained
        from adapt.training.chat import stop_ids

        location, stops = context.models[self.model], stop_ids(run.tokenizer) if self.objective.learns_answers else ()
        probe = run.monitor.probe(min(_PROBE_LENGTH, self.sequence_length))
        return Trained(run.model, location, run.tokenizer, run.rows, run.precision, probe, stops)
