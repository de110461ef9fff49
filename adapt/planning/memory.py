"""The peak memory of a train stage, and what it consists of.

    peak = weights + moments + max over the phases of a step (what the phase takes besides)

Weights, what a method inserts, and moments are counted from the sketch of the model; activations, gradients and logits
come from a traced step. See `adapt.planning.trace`.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from adapt.planning.gpus import RESERVED, SLACK
from adapt.planning.step import Step, loss_form
from adapt.planning.trace import Peak, traced

if TYPE_CHECKING:
    from adapt.planning.sketch import Sketch
    from adapt.stages.train import Train

EVALUATED = {"cpu": 1024, "cuda": 16384}
"""Positions of a batch of held-out text, as `adapt.evaluation.bits_per_byte` reads it."""
LOGIT_BUDGET = 512 * 2**20


@dataclass(frozen=True)
class Memory:
    """Bytes on the device that computes. `parts` are those of the phase with the highest peak and sum to `peak`.

    `phases` are the peaks of all phases; `framework` comes on top of the tensors (`adapt.planning.gpus`); `host` is
    main memory that an offloading optimiser, and a state that is being written, take beside a GPU.
    """

    parts: dict[str, int]
    phases: dict[str, int]
    framework: int = 0
    host: int = 0
    notes: tuple[str, ...] = field(default=())

    @property
    def peak(self) -> int:
        """Bytes of all tensors when there are most."""
        return max(self.phases.values())

    @property
    def total(self) -> int:
        """With what the framework takes."""
        return self.peak + self.framework

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {"peak": self.peak, "total": self.total, **asdict(self), "notes": list(self.notes)}


def memory_of(stage: Train, found: Sketch, device: str, bf16: bool) -> Memory:
    """The memory of a train stage over a sketched model, on `cpu` or `cuda`."""
    step = step_of(stage, found, device, bf16)
    peaks, steady = _traced(found, stage, step), dict(found.parts)
    moments = moments_of(found, stage)
    away = stage.optimizer.leaves_device() and device == "cuda"
    steady["optimiser"] = 0 if away else moments
    gradients = sum(4 * parameter.numel() for parameter in found.training)
    if stage.gradient_accumulation > 1:
        largest = max((4 * parameter.numel() for parameter in found.training), default=0)
        peaks = {phase: _accumulated(peak, gradients, largest) for phase, peak in peaks.items()}
    peaks["update"] = Peak(gradients + _scratch(found, stage), gradients)
    written = max(gradients, moments)  # safetensors copies a file's tensors before it writes them
    peaks["checkpoint"] = Peak(written if device == "cpu" else 0)
    peaks["evaluation"] = _evaluation(stage, step, found)
    base = sum(steady.values())
    phases = {phase: round(base + peak.total) for phase, peak in peaks.items()}
    highest = max(phases, key=phases.__getitem__)
    parts = steady | _split(peaks[highest], highest)
    parts["activations"] += phases[highest] - sum(parts.values())  # what rounding left
    framework = RESERVED + round(SLACK * max(phases.values())) if device == "cuda" else 0
    host = (moments if away else 0) + (written if device == "cuda" else 0)
    return Memory(parts, phases, framework, host)


def _split(peak: Peak, phase: str) -> dict[str, int]:
    """A phase's bytes by what they are; those of an evaluation or of a state being written have one name."""
    parts = {"gradients": round(peak.gradients), "logits": round(peak.logits), "activations": 0}
    if phase in ("evaluation", "checkpoint"):
        return {"gradients": 0, "logits": 0, "activations": 0, phase: round(peak.total)}
    return parts | {"activations": round(peak.total - peak.gradients - peak.logits)}


def step_of(stage: Train, found: Sketch, device: str, bf16: bool) -> Step:
    """The shape of a step of the stage."""
    from adapt.methods.base import plain_model

    pairs = stage.objective.kind in ("dpo", "orpo")
    height = plain_model(found.model).get_output_embeddings().weight.shape[0]
    rows = stage.batch_size * (2 if pairs else 1)
    return Step(
        rows=rows,
        length=stage.sequence_length,
        height=height,
        bf16=bf16,
        loss_form=loss_form(rows, stage.sequence_length, height, bool(found.rows.tables), pairs),
        device=device,
        offload=stage.activation_offloading,
        packed=not (stage.attention == "flash_attention_2" and device == "cuda"),
    )


def _traced(found: Sketch, stage: Train, step: Step) -> dict[str, Peak]:
    from adapt.methods.base import plain_model

    plain = plain_model(found.model)
    found.model.train()
    if stage.gradient_checkpointing:
        plain.gradient_checkpointing_enable({"use_reentrant": False, "preserve_rng_state": False})
        if plain is not found.model:
            plain.enable_input_require_grads()
    peaks = traced(found.model, step)
    scratch = _unpacked(found, step.bf16)
    return {phase: Peak(peak.total + scratch, peak.gradients, peak.logits) for phase, peak in peaks.items()}


def _unpacked(found: Sketch, bf16: bool) -> int:
    """The largest 4-bit matrix as it is multiplied with, in the precision of the run for the time of a product."""
    sizes = (p.numel() for p in found.model.parameters() if getattr(p, "four_bits", False))
    return (2 if bf16 else 4) * max(sizes, default=0)


def moments_of(found: Sketch, stage: Train) -> int:
    """Bytes of the optimiser's moments."""
    rule = stage.optimizer.state_bytes
    return sum(rule(tuple(parameter.shape), found.is_embedding(parameter)) for parameter in found.training)


def _scratch(found: Sketch, stage: Train) -> int:
    """What an update holds for one parameter at a time: nothing in fused kernels, some copies in the others."""
    copies = {"adafactor": 2, "galore_adamw": 3, "apollo_adamw": 3}.get(stage.optimizer.kind, 0)
    return copies * max((4 * parameter.numel() for parameter in found.training), default=0)


def _accumulated(peak: Peak, gradients: int, largest: int) -> Peak:
    """A phase of a later batch of an update: all gradients are there, and the newest one beside them."""
    newest = largest if peak.gradients else 0
    return Peak(peak.total - peak.gradients + gradients + newest, gradients + newest, peak.logits)


def _evaluation(stage: Train, step: Step, found: Sketch) -> Peak:
    """A batch of held-out text, no more than there is at a byte a token: its logits, and the vectors of one layer."""
    config = found.model.config.get_text_config()
    positions = min(EVALUATED[step.device], LOGIT_BUDGET // (4 * step.height), stage.evaluation_bytes)
    size = 2 if step.bf16 else 4
    wide = 3 * config.intermediate_size + 6 * config.hidden_size
    logits = positions * step.height * size + min(positions, 1024) * step.height * 4 * 2
    return Peak(logits + positions * wide * size, 0, logits)
