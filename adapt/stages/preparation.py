"""What a training stage does before its first step: the data, the model, the plan of the run, in that order."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

from transformers import set_seed

from adapt.checkpoints import load_config, load_tokenizer
from adapt.data.sources import held_out_documents
from adapt.errors import AdaptError
from adapt.launch.settings import share_of
from adapt.methods.base import Trained
from adapt.mixture.references import location_of
from adapt.training import precision
from adapt.training.batches import check_context, first_batches, pad_id
from adapt.training.callbacks import evaluation_steps
from adapt.training.chat import stop_ids
from adapt.training.meter import Meter
from adapt.training.monitor import Monitor, monitor_of
from adapt.training.plan import Plan
from adapt.training.precision import Precision, check_offloading
from adapt.training.run import Run, before_anneal

if TYPE_CHECKING:
    from adapt.stages.base import StageContext
    from adapt.stages.train import Train
    from adapt.training.companion import Companion

_LOG_LINES = 200
"""About as many lines of loss does a run write."""
PROBE_LENGTH = 128
"""Tokens in each row on which the written model is compared with the live one."""


def prepare(stage: Train, context: StageContext) -> tuple[Run, Path | None, Meter]:
    """Load everything, the data first: what is wrong there is seen before a large model is read."""
    location = context.models[stage.model]
    tokenizer, config = load_tokenizer(location), load_config(location).get_text_config()
    check_context(config, stage.model, stage.sequence_length)
    stream = context.world.first(lambda: _stream(stage, context, tokenizer))
    choice = precision.choose(stage.precision, config.hidden_size)
    if (caution := precision.caution(choice)) is not None:
        context.display.line(caution)
    attention = precision.attention(stage.attention, choice, config)
    kept, offset = _continued(stage, context)
    plan = _plan(stage, context, len(stream), choice, offset)
    set_seed(context.seed)
    form = pad_id(tokenizer), attention == "flash_attention_2"
    method = stage.method.resolved(context.models, context.upstream)
    batches = first_batches(stream, method.collator(stage.objective.model_collator(*form)), stage.batch_size)
    meter = Meter()
    model = method.build(location, choice, batches, attn_implementation=attention)
    run = Run(
        model=model,
        rows=stage.method.rows(model, stage.held, location, tokenizer),
        tokenizer=tokenizer,
        stream=stream,
        collate=method.collator(stage.objective.collator(*form)),
        plan=plan,
        monitor=_monitor(stage, context, tokenizer, choice),
        general=stage.general_source,
        evaluations=stage.evaluations,
        bytes_per_token=stream.bytes_per_token if stage.objective.kind == "causal_lm" else None,
        folder=context.folder,
        display=context.display,
        log=context.log,
        tensorboard="tensorboard" in stage.report_to,
        companions=(*stage.method.companions(model, context.seed), *_measures(stage, context, tokenizer, plan.steps)),
        located=lambda name: location_of(name, context.models, context.upstream),
        make_trainer=stage.objective.trainer,
    )
    return run, kept, meter


def _continued(stage: Train, context: StageContext) -> tuple[Path | None, int]:
    """The state to begin with and the updates that led to it; None and 0 for a stage that goes on from nothing."""
    if stage.continue_from is None:
        return None, 0
    if stage.continue_from not in context.upstream:
        raise AdaptError(f"continue_from: '{stage.continue_from}' is no stage of this recipe; name a train stage")
    return before_anneal(context.upstream[stage.continue_from])


def _measures(stage: Train, context: StageContext, tokenizer: Any, steps: int) -> tuple[Companion, ...]:
    documents = (
        document
        for name in stage.mixture
        for document in held_out_documents(context.sources[name], stage.evaluation_bytes)
    )
    at = evaluation_steps(steps, stage.evaluations)
    return stage.objective.companions(documents, tokenizer, stage.sequence_length, at)


def _stream(stage: Train, context: StageContext, tokenizer: Any) -> Any:
    stream = stage.objective.stream(
        context.sources,
        stage.mixture,
        tokenizer,
        sequence_length=stage.sequence_length,
        packing=stage.packing,
        seed=context.seed,
        cache=context.cache,
        tokens=stage.tokens,
        epochs=stage.epochs,
        multiple=stage.batch_size * stage.gradient_accumulation,
        display=context.display,
    )
    stage.objective.show(context.display, stream, tokenizer)
    return stream


def _plan(stage: Train, context: StageContext, rows: int, precision: Precision, offset: int) -> Plan:
    steps = rows // (stage.batch_size * stage.gradient_accumulation)
    stage.schedule.check(offset, offset + steps)
    stage.optimizer.check(precision.device.type)
    check_offloading(stage.activation_offloading, precision.device.type)
    rows_at_once, batches = share_of(stage.batch_size, stage.gradient_accumulation, context.world.size)
    return Plan(
        steps=steps,
        batch_size=rows_at_once,
        accumulation=batches,
        schedule=stage.schedule,
        optimizer=stage.optimizer,
        precision=precision,
        seed=context.seed,
        checkpoint_every=math.ceil(steps / stage.checkpoints),
        keep_checkpoints=stage.keep_checkpoints,
        log_every=max(1, steps // _LOG_LINES),
        gradient_checkpointing=stage.gradient_checkpointing,
        activation_offloading=stage.activation_offloading,
        report_to=tuple(name for name in stage.report_to if name != "tensorboard"),
        offset=offset,
        world=context.world,
    )


def _monitor(stage: Train, context: StageContext, tokenizer: Any, precision: Precision) -> Monitor:
    names = dict.fromkeys([*stage.mixture, *([stage.general_source] if stage.general_source else [])])
    sources = {name: context.sources[name] for name in names}
    sizes = stage.sequence_length, stage.evaluation_bytes
    return monitor_of(sources, tokenizer, stage.objective.form, *sizes, precision, context.display)


def trained(stage: Train, context: StageContext, run: Run) -> Trained:
    """The run's model with what its method needs to save it."""
    location, stops = context.models[stage.model], stop_ids(run.tokenizer) if stage.objective.learns_answers else ()
    probe = run.monitor.probe(min(PROBE_LENGTH, stage.sequence_length))
    return Trained(run.model, location, run.tokenizer, run.rows, run.precision, probe, stops)
