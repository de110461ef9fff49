"""VeRA: one pair of random matrices for all layers, and two vectors for each."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from adapt.errors import AdaptError
from adapt.methods.base import Method, Trained, plain_model
from adapt.methods.low_rank.conflicts import targets_of
from adapt.settings import Count, Positive, Share

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from adapt.checkpoints import ModelLocation
    from adapt.methods.low_rank.updates import Updates
    from adapt.training.precision import Precision


class Vera(Method):
    """`W' = W + diag(b) B diag(d) A`, A and B random, frozen and shared by all layers; b zero at first.

    Kopiczko et al. 2023, "VeRA: Vector-based Random Matrix Adaptation", arXiv 2310.11454. Far fewer numbers train than
    with LoRA, at a higher rank. The adapter is written in LoRA's form, which merges and loads everywhere.
    """

    makes: ClassVar[tuple[str, ...]] = ("adapter",)

    kind: Literal["vera"] = "vera"
    """Two vectors for each layer around shared random matrices."""
    r: Count = 256
    """The rank of the random matrices."""
    initial: Positive = 0.1
    """The value at which d starts."""
    dropout: Share = 0.0
    """Share of the inputs of each update that is dropped while training."""
    targets: Literal["all-linear"] | tuple[str, ...] = "all-linear"
    """The linear layers that get an update: all but the output embedding, or those whose names end so (`q_proj`)."""

    def conflicts(self) -> Iterator[tuple[str, str]]:
        """Targets that are none or get no update of their own."""
        yield from super().conflicts()
        yield from targets_of(self.targets)

    def load(self, location: ModelLocation, precision: Precision, **arguments: Any) -> PreTrainedModel:
        """The base in bf16 or float32, as the run computes."""
        from adapt.checkpoints import load_model

        return load_model(location, precision.dtype, **arguments)

    def attach(self, model: PreTrainedModel) -> Any:
        """Freeze the model and put an update, which is zero at first, beside each target."""
        from peft import VeraConfig, get_peft_model

        config = VeraConfig(
            r=self.r,
            d_initial=self.initial,
            vera_dropout=self.dropout,
            target_modules=self.targets if self.targets == "all-linear" else list(self.targets),
            task_type="CAUSAL_LM",
        )
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", FutureWarning)  # peft asks for an attribute that was renamed
                return get_peft_model(model, config)
        except ValueError as error:
            raise AdaptError(f"method targets {list(self.targets)}: {str(error).splitlines()[0]}") from error

    def save(self, trained: Trained, folder: Path) -> dict[str, Any]:
        """Write the adapter in LoRA's form, and the base with it added in float32 and rounded once."""
        from adapt.methods.adapter import save_vocabulary
        from adapt.methods.export import live_logits, measure
        from adapt.methods.low_rank.updates import write_summed
        from adapt.methods.streaming import Stored, Sum, write_sum

        expected = live_logits(trained)
        updates = vera_updates(trained.model)
        write_summed(updates, lora_config(trained), folder / "adapter")
        save_vocabulary(trained, Stored(trained.location), folder / "adapter")
        proof, logits = write_sum(Sum(trained, adapter=folder / "adapter", updates=updates), folder / "model")
        return proof | {"merge": {"written": measure(expected, logits)}}


def lora_config(trained: Trained) -> Any:
    """A LoRA configuration for the same base."""
    from peft import LoraConfig

    own = trained.model.peft_config["default"]
    return LoraConfig(base_model_name_or_path=own.base_model_name_or_path, task_type="CAUSAL_LM")


def vera_updates(model: Any) -> Updates:
    """Every layer's update as factors `diag(b) B`, `diag(d) A`."""
    from peft.tuners.vera import VeraLayer

    from adapt.methods.low_rank.factors import add
    from adapt.methods.low_rank.updates import Updates, from_factors

    factors, transposed = {}, set()
    for name, layer in plain_model(model).named_modules():
        if not isinstance(layer, VeraLayer):
            continue
        d, b = (getattr(layer, f"vera_lambda_{part}")["default"].detach().float().cpu() for part in "db")
        left = b[:, None] * layer.vera_B["default"][: layer.out_features].float().cpu()
        right = d[:, None] * layer.vera_A["default"][:, : layer.in_features].float().cpu()
        factors[name] = add([(left, right)])
        transposed |= {name} if layer.fan_in_fan_out else set()
    return from_factors(factors, Updates({}, {}, frozenset(transposed)))
