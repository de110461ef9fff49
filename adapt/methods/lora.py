"""LoRA: low-rank updates beside frozen weights, through peft's layers and in peft's format."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from adapt.errors import AdaptError
from adapt.methods.base import Method, Trained, plain_model
from adapt.settings import Count, Positive, Share

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

    from adapt.checkpoints import ModelLocation
    from adapt.training.precision import Precision


class LowRank(Method):
    """What LoRA over a plain and over a quantised base have in common."""

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

    def conflicts(self) -> Iterator[tuple[str, str]]:
        """Targets that are none, or that TRL's fused loss would pass by."""
        yield from super().conflicts()
        if self.targets == ():
            yield "targets", "an empty list of targets would train nothing; write all-linear or names such as q_proj"
        for name in self.targets if self.targets != "all-linear" else ():
            if name.split(".")[-1] in ("lm_head", "embed_tokens", "wte", "embed_out"):
                yield "targets", f"'{name}' is an embedding; use train_embeddings: new_rows or whole for it"

    @property
    def scale(self) -> float:
        """The factor before B A."""
        from adapt.methods.export import lora_scale

        return lora_scale(self.r, self.alpha or 2 * self.r, self.rslora)

    def attach(self, model: PreTrainedModel) -> Any:
        """Freeze the model and put an update, which is zero at first, beside each target."""
        from peft import LoraConfig, get_peft_model

        config = LoraConfig(
            r=self.r,
            lora_alpha=self.alpha or 2 * self.r,
            lora_dropout=self.dropout,
            target_modules=self.targets if self.targets == "all-linear" else list(self.targets),
            use_rslora=self.rslora,
            use_dora=self.dora,
            task_type="CAUSAL_LM",
        )
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", FutureWarning)  # peft asks for an attribute that was renamed
                return get_peft_model(model, config)
        except ValueError as error:
            raise AdaptError(f"method targets {list(self.targets)}: {str(error).splitlines()[0]}") from error

    def write_adapter(self, trained: Trained, folder: Path) -> tuple[dict[str, torch.Tensor], frozenset[str]]:
        """Write peft's files; returns the adapter's tensors and the names of the transposed modules."""
        from peft import get_peft_model_state_dict
        from peft.tuners.lora import LoraLayer

        trained.model.save_pretrained(folder, save_embedding_layers=False)
        (folder / "README.md").unlink(missing_ok=True)  # a model card with empty sections
        adapter = get_peft_model_state_dict(trained.model, save_embedding_layers=False)
        transposed = frozenset(
            name
            for name, module in plain_model(trained.model).named_modules()
            if isinstance(module, LoraLayer) and getattr(module, "fan_in_fan_out", False)
        )
        return {name: tensor.detach().cpu() for name, tensor in adapter.items()}, transposed


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
        import torch

        from adapt.checkpoints import load_model
        from adapt.methods.adapter import save_vocabulary
        from adapt.methods.export import live_logits, measure, merge_adapter, put_rows, write_plain

        expected = live_logits(trained)
        adapter, transposed = self.write_adapter(trained, folder / "adapter")
        base = load_model(trained.location, torch.float32).state_dict()
        state = put_rows(merge_adapter(base, adapter, self.scale, transposed), trained)
        save_vocabulary(trained, base, folder / "adapter")
        difference, logits = write_plain(state, trained, folder / "model")
        return {"reload_difference": difference, "merge": {"written": measure(expected, logits)}}
