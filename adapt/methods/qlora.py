"""QLoRA: LoRA over a base whose linear layers are quantised to 4-bit NormalFloat."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from adapt.methods.base import Trained, in_format, plain_model
from adapt.methods.lora import LowRank

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

    from adapt.checkpoints import ModelLocation
    from adapt.methods.low_rank.updates import Updates
    from adapt.training.precision import Precision

MergeInto = Literal["original", "dequantised", "best"]


class Qlora(LowRank):
    """LoRA over NF4 weights with double quantisation, on a GPU or a CPU; products in the precision of the run.

    Dettmers et al. 2023, arXiv 2305.14314. The updates were trained around the quantised weights but are, by default,
    added to the unquantised ones; both sums are measured against the model as it trained.
    """

    kind: Literal["qlora"] = "qlora"
    """Low-rank updates beside weights in 4 bits."""
    merge_into: MergeInto = "original"
    """The base that the updates are added to: the unquantised weights (`original`), the 4-bit weights written out
    (`dequantised`), or the one that comes closer to the model as it trained (`best`)."""

    def load(self, location: ModelLocation, precision: Precision, **arguments: Any) -> PreTrainedModel:
        """The base with its linear layers in NF4; embeddings and norms stay as they are."""
        from transformers import BitsAndBytesConfig

        from adapt.checkpoints import load_model

        quantisation = BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=precision.dtype,
        )
        place = {"": precision.device.index or 0} if precision.device.type == "cuda" else {"": "cpu"}
        model = load_model(location, precision.dtype, quantization_config=quantisation, device_map=place, **arguments)
        _keep_training_format(model)
        return model

    def outline(self, model: PreTrainedModel, bf16: bool) -> Any:
        """Linear layers in NF4."""
        from adapt.methods.outline import in_four_bits, linear_layers

        in_four_bits(model := in_format(model, bf16), linear_layers(model))
        return super().outline(model, bf16)

    def save(self, trained: Trained, folder: Path) -> dict[str, Any]:
        """Write the adapter and the chosen sum; `base_choice` says how close each sum is to the model as it trained."""
        from adapt.methods.adapter import save_vocabulary
        from adapt.methods.export import live_logits
        from adapt.methods.low_rank.average import save_average
        from adapt.methods.streaming import Stored

        expected = live_logits(trained)
        on_disk = self.write_adapter(trained, folder / "adapter")
        save_vocabulary(trained, Stored(trained.location), folder / "adapter")
        metrics = self._write_better(trained, on_disk, expected, folder)
        return metrics | save_average(trained, expected, folder)

    def _write_better(self, trained: Trained, on_disk: Updates, live: torch.Tensor, folder: Path) -> dict[str, Any]:
        """Write the sum that is asked for to `folder/model`, and measure the other one as well."""
        from adapt.methods.export import measure
        from adapt.methods.live_base import dequantised_weights
        from adapt.methods.low_rank.updates import live_updates, save_updates
        from adapt.methods.streaming import Sum, logits_of_sum, write_sum

        updates = live_updates(trained.model)
        save_updates(updates, trained.model, folder / "live_adapter")  # not the adapter where a start took a part out
        bases = {
            "original": Sum(trained, {}, folder / "adapter", on_disk),
            "dequantised": Sum(
                trained, dequantised_weights(plain_model(trained.model)), folder / "live_adapter", updates
            ),
        }
        order = [name for name in bases if name != self.merge_into]
        numbers = {name: measure(live, logits_of_sum(bases[name], folder / "candidate")) for name in order}
        chosen = self.merge_into
        if chosen == "best":
            chosen = min(numbers, key=lambda name: numbers[name]["kl"])
        proof, logits = write_sum(bases[chosen], folder / "model")
        shutil.rmtree(folder / "live_adapter")
        numbers = {name: numbers.get(name) or measure(live, logits) for name in bases}
        choice = {"asked": self.merge_into, "written": chosen, **numbers}
        return proof | {"merge": {"written": numbers[chosen]}, "base_choice": choice}


def _keep_training_format(model: PreTrainedModel) -> None:
    """Keep bitsandbytes from repacking weights for inference on a CPU: an evaluation would end the training."""
    from bitsandbytes.nn import Linear4bit

    for module in model.modules():
        if isinstance(module, Linear4bit):
            module.support_avx512bf16_for_cpu = False
