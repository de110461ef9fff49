"""What pruning saved, said when a run begins and kept in its manifest."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from adapt.training.companion import Companion

if TYPE_CHECKING:
    from adapt.training.run import Run


class Storage(Companion):
    """Parameter storage of the whole model over that of the one that trains, as LoRAM's paper gives it.

    Numbers that are not packed count as 16 bits, whichever format the run computes in.
    """

    name: ClassVar[str] = "pruned"

    def __init__(self, sizes: Mapping[str, Mapping[str, int]]) -> None:
        self.sizes = sizes

    def prepare(self, run: Run) -> None:
        """Say the ratio."""
        found = self.numbers()
        run.display.line(
            f"  pruned: {found['whole_parameters']:,} parameters to {found['parameters']:,}, "
            f"{found['storage_ratio']:.2f} times less parameter storage"
        )

    def numbers(self) -> dict[str, Any]:
        """Parameters before and after, and the ratio of their bytes."""
        whole, trained = self.sizes["whole"], self.sizes["trained"]
        return {
            "whole_parameters": whole["parameters"],
            "parameters": trained["parameters"],
            "storage_ratio": whole["bytes"] / trained["bytes"],
        }
