"""What the assistant writes in conversations."""

from __future__ import annotations

from typing import Literal

from adapt.training.objectives.packed import Packed


class Sft(Packed):
    """Supervised fine-tuning: the loss of next tokens, on the assistant's turns and the tokens that end them."""

    kind: Literal["sft"] = "sft"
    """Only the assistant's tokens of conversations."""
