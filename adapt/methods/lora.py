"""LoRA: low-rank updates beside frozen weights, through peft's layers and in peft's format."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field

from adapt.errors import AdaptError
from adapt.methods.base import Method, Trained
from adapt.methods.low_rank.conflicts import conflicts_of, unprunable
from adapt.methods.low_rank.settings import Average, RankSelect, Refactor
from adapt.settings import Count, Positive, Share

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from adapt.checkpoints import ModelLocation
    from adapt.methods.base import Batches
    from adapt.methods.low_rank.updates import Updates
    from adapt.training.companion import Companion
    from adapt.training.optimizer import BaseOptimizer
    from adapt.training.precision import Precision

Start = Literal["default", "gaussian", "orthogonal", "pissa", "olora", "loftq", "eva"]


class LowRank(Method):
    """What LoRA over a plain and over a quantised base have in common."""

    makes: ClassVar[tuple[str, ...]] = ("adapter",)

    r: Count = 16
    """The rank of each update."""
    alpha: Positive | None = None
    """The update is scaled by alpha / r (with rslora alpha / sqrt(r)). Empty: twice the rank."""
    dropout: Share = 0.0
    """Share of the inputs of each update that is dropped while training."""
    targets: Literal["all-linear"] | tuple[str, ...] = "all-linear"
    """The linear layers that get an update: all but the output embedding, or those whose names end so (`q_proj`)."""
    rslora: bool = False
    """Rank-stabilised scaling, alpha / sqrt(r)."""
    dora: bool = False
    """Weight-decomposed updates (DoRA): a magnitude for each output beside the low-rank direction."""

    rank_pattern: dict[str, Count] = Field(default_factory=dict)
    """Ranks of single layers, by a regular expression that the end of their name fits (`layers.0.self_attn.q_proj`)."""
    alpha_pattern: dict[str, Positive] = Field(default_factory=dict)
    """Their alphas, likewise. Where alpha is empty, that of a layer in `rank_pattern` is twice its rank."""
    init: Start = "default"
    """Where an update starts: at zero, with A drawn from a uniform (`default`) or normal (`gaussian`) distribution or
    with A and B that cancel (`orthogonal`); at a part that is taken out of the weight, its main directions (`pissa`), a
    part of its QR decomposition (`olora`) or the error of 4 bits (`loftq`); or with A on the main directions of the
    layer's inputs (`eva`), the ranks shared out among the layers."""
    lora_fa: bool = False
    """Only B trains, A stays as drawn (LoRA-FA): the inputs of the layers need not be kept for the backward pass."""
    lora_plus: Positive | None = None
    """Learning rate of B as a multiple of A's (LoRA+; its paper uses 16). Empty: the same."""
    refactor: Refactor | None = None
    """Put what was learned into the weights and begin again, several times in a run (ReLoRA). Empty: never."""
    rank_select: RankSelect | None = None
    """Let every layer find its rank, at most r. Empty: the rank is r."""
    average: Average | None = None
    """A second, slow adapter: the moving average of the one that trains. Empty: none."""

    def conflicts(self) -> Iterator[tuple[str, str]]:
        """Targets that are none or get no update of their own, and options that exclude each other."""
        yield from super().conflicts()
        yield from conflicts_of(self)

    def conflicts_with(self, optimizer: BaseOptimizer) -> Iterator[tuple[str, str]]:
        """Moments that a restart could not prune."""
        for message in unprunable(self.refactor, optimizer) if self.refactor is not None else ():
            yield "refactor", message

    @property
    def scale(self) -> float:
        """The factor before B A."""
        from adapt.methods.export import lora_scale

        return lora_scale(self.r, self.alpha or 2 * self.r, self.rslora)

    def attach(self, model: PreTrainedModel) -> Any:
        """Freeze the model and put an update, which is zero at first, beside each target."""
        from peft import EvaConfig, LoraConfig, get_peft_model

        doubled = {} if self.alpha else {name: 2 * rank for name, rank in self.rank_pattern.items()}
        config = LoraConfig(
            r=self.r,
            lora_alpha=self.alpha or 2 * self.r,
            rank_pattern=dict(self.rank_pattern),
            alpha_pattern=doubled | self.alpha_pattern,
            init_lora_weights=self.init if self.init in ("gaussian", "orthogonal", "eva") else True,
            eva_config=EvaConfig() if self.init == "eva" else None,
            lora_dropout=self.dropout,
            target_modules=self.targets if self.targets == "all-linear" else list(self.targets),
            use_rslora=self.rslora,
            use_dora=self.dora,
            task_type="CAUSAL_LM",
        )
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", FutureWarning)  # peft asks for an attribute that was renamed
                warnings.filterwarnings("ignore", message=".*eva init", category=UserWarning)
                return get_peft_model(model, config)
        except ValueError as error:
            raise AdaptError(f"method targets {list(self.targets)}: {str(error).splitlines()[0]}") from error

    def build(
        self, location: ModelLocation, precision: Precision, batches: Batches, **arguments: Any
    ) -> PreTrainedModel | Any:
        """The model with its updates, which start as `init` says and train as the other keys say."""
        model = super().build(location, precision, batches, **arguments)
        return self.start(model, location, batches)

    def outline(self, model: PreTrainedModel, bf16: bool) -> Any:
        """The model with its updates; where these start does not change what trains, but for `eva`'s ranks."""
        from adapt.methods.low_rank.companions import prepare_factors

        model = super().outline(model, bf16)
        prepare_factors(model, self)
        return model

    def start(self, model: Any, location: ModelLocation, batches: Batches) -> Any:
        """Start the updates of a model from `attach`, in place, and set what of them trains."""
        from adapt.methods.low_rank.companions import prepare_factors
        from adapt.methods.low_rank.start import explain_variance, take_out

        if self.init == "eva":
            explain_variance(model, batches)
        elif self.init in ("pissa", "olora", "loftq"):
            take_out(model, self.init, location)
        prepare_factors(model, self)
        return model

    def companions(self, model: Any, seed: int) -> tuple[Companion, ...]:
        """Restarts, the choice of ranks, the moving average, as far as they are asked for."""
        from adapt.methods.low_rank.companions import companions_of

        return companions_of(self, model, seed)

    def write_adapter(self, trained: Trained, folder: Path) -> Updates:
        """Write peft's files for the weights on the disk; returns the same updates."""
        from adapt.methods.low_rank.updates import save_updates, total_updates

        updates = total_updates(trained.model)
        save_updates(updates, trained.model, folder)
        return updates


class Lora(LowRank):
    """LoRA over the base in its own number format.

    `W' = W + s B A`, `A [r, in]` random, `B [out, r]` zero at first; Hu et al. 2021, arXiv 2106.09685.
    """

    kind: Literal["lora"] = "lora"
    """Low-rank updates beside frozen weights."""

    def load(self, location: ModelLocation, precision: Precision, **arguments: Any) -> PreTrainedModel:
        """The base in bf16 or float32, as the run computes."""
        from adapt.checkpoints import load_model

        return load_model(location, precision.dtype, **arguments)

    def save(self, trained: Trained, folder: Path) -> dict[str, Any]:
        """Write the adapter, and the base with it added in float32 and rounded once."""
        from adapt.methods.adapter import save_vocabulary
        from adapt.methods.export import live_logits, measure
        from adapt.methods.low_rank.average import save_average
        from adapt.methods.streaming import Stored, Sum, write_sum

        expected = live_logits(trained)
        updates = self.write_adapter(trained, folder / "adapter")
        save_vocabulary(trained, Stored(trained.location), folder / "adapter")
        parts = Sum(trained, adapter=folder / "adapter", updates=updates)
        proof, logits = write_sum(parts, folder / "model")
        average = save_average(trained, expected, folder)
        return proof | {"merge": {"written": measure(expected, logits)}} | average
