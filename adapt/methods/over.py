"""What methods with modules of our own beside a frozen base's layers have in common: the base's format."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from adapt.methods.base import Method

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from adapt.checkpoints import ModelLocation
    from adapt.training.precision import Precision


class Over(Method):
    """A base that stands in the run as it computes, or in 4 bits."""

    over: Literal["bf16", "nf4"] = "bf16"
    """The base as it stands in the run: in the format that the run computes in, or its linear layers in 4 bits."""

    def load(self, location: ModelLocation, precision: Precision, **arguments: Any) -> PreTrainedModel:
        """The base, in 4 bits if it is asked for."""
        from adapt.mixture.folder import load_base

        return load_base(location, precision, "nf4" if self.over == "nf4" else None, **arguments)

    def outline(self, model: PreTrainedModel, bf16: bool) -> Any:
        """What `build` gives, without values."""
        from adapt.methods.outline import in_four_bits, linear_layers

        if self.over == "nf4":
            in_four_bits(model, linear_layers(model))
        return super().outline(model, bf16)
