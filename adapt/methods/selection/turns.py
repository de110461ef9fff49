"""Freezing and thawing whole tensors, once or in turns, in a model that trains.

A frozen tensor does not require a gradient, so none is computed for it, and the optimiser, which finds none, neither
moves nor decays it. (Masks on gradients would do neither: AdamW's decay shrinks what has no gradient by
`(1 - lr wd)^n`.) With turns the optimiser knows every tensor that may ever train; its moments are dropped when a tensor
freezes and begin anew, with their count of steps, when it thaws.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Literal

from torch import nn

from adapt.errors import AdaptError
from adapt.methods.selection.plan import Selection, digest
from adapt.training.companion import Companion
from adapt.training.rules import set_turns, trainable_numbers

if TYPE_CHECKING:
    from adapt.training.run import Run

Length = int | Literal["per_epoch"] | None
"""Updates in a turn; None where there is only one."""


def thaw(model: nn.Module, selection: Selection, turn: int) -> None:
    """Let exactly the parameters of a turn train, and drop the gradients of the others. Embeddings are left alone."""
    names = selection.names(turn)
    own = {name for unit in selection.units for name in unit.parameters}
    for name, parameter in model.named_parameters():
        if name in own:
            parameter.requires_grad_(name in names)
            if name not in names:
                parameter.grad = None


class Turns(Companion):
    """Draws what trains anew after each `length` updates, and says what trained.

    The turn is a function of the update, so a checkpoint holds nothing of it, and a killed run goes on bit for bit.
    """

    name: ClassVar[str] = "selection"

    def __init__(self, model: nn.Module, selection: Selection, length: Length) -> None:
        self.model, self.selection, self.length = model, selection, length
        self.turn, self.count = 0, 1

    def prepare(self, run: Run) -> None:
        """Fix the turns' length. Raises AdaptError where the run is too short for a second one."""
        if self.length == "per_epoch":
            self.length = updates_per_epoch(run)
        if self.length is not None:
            total = run.plan.total
            self.count = max(1, round(total / self.length))
            if self.count < 2:
                raise AdaptError(
                    f"the method draws anew after every {self.length:,} updates, but the run has only {total:,}; "
                    "train longer, or draw once for the stage"
                )
            set_turns(self.model, {name for unit in self.selection.units for name in unit.parameters})
        self._begin(self._turn(run.plan.offset))
        run.display.line(f"  {describe(self.selection, self.turn, trainable_numbers(run.model, run.rows))}")

    def _turn(self, update: int) -> int:
        """The turn of an update; the last one may be half as long again, but no turn is shorter than a half."""
        return 0 if self.length is None else min(update // self.length, self.count - 1)

    def _begin(self, turn: int) -> None:
        self.turn = turn
        thaw(self.model, self.selection, turn)
        self.selection.turns = {earlier: earlier * (self.length or 0) for earlier in range(turn + 1)}

    def _switch(self, step: int) -> None:
        turn = self._turn(self.trainer.plan.offset + step)
        self._begin(turn)
        names = self.selection.names(turn)
        for name, parameter in self.model.named_parameters():
            if name not in names and not parameter.requires_grad:
                self.trainer.optimizer.state.pop(parameter, None)

    def on_train_begin(self, args: Any, state: Any, control: Any, **others: Any) -> None:
        """Take up the turn in which the run stands. Raises AdaptError for turns on several devices.

        Data-parallel training sums the gradients of what trained when it began; what thaws later would be left out.
        """
        if self.count > 1 and self.trainer.accelerator.num_processes > 1:
            raise AdaptError("drawing anew within a run works on one device only; draw once for the stage")
        self._switch(state.global_step)

    def on_step_end(self, args: Any, state: Any, control: Any, **others: Any) -> None:
        """Begin a new turn where one is due."""
        update = self.trainer.plan.offset + state.global_step
        if state.global_step < self.trainer.plan.steps and self._turn(update) != self.turn:
            self._switch(state.global_step)

    def changed(self) -> set[str]:
        """What trained in any turn so far."""
        return set(self.selection.trained())

    def numbers(self) -> dict[str, Any]:
        """Names of what trained, and each turn with a digest of its names."""
        trained = sorted(self.selection.trained())
        turns = [
            {"update": at, "digest": digest(self.selection.names(turn)), "shares": self.selection.shares(turn)}
            for turn, at in sorted(self.selection.turns.items())
        ]
        frozen = sum(len(unit.parameters) for unit in self.selection.units) - len(trained)
        inside = [unit for unit in self.selection.units if unit.layer is not None]
        told = {"round": self.selection.round, "turns": turns, "digest": digest(trained)}
        told |= {"layers": len({unit.block for unit in inside}), "kinds": list(dict.fromkeys(u.kind for u in inside))}
        return told | {"trained": trained, "never_trained": frozen}


def updates_per_epoch(run: Run) -> int:
    """Updates until the source that its share exhausts first has been read once, of a run on a mixed stream."""
    sources = run.stream.sources
    total = sum(source.share for source in sources)
    once = min(int(source.packing.lengths.sum()) * total / source.share for source in sources)
    return max(1, round(once / run.stream.tokens * run.plan.steps))


def describe(selection: Selection, turn: int, numbers: dict[str, float]) -> str:
    """What trains, in a line: units of the blocks, and the share of numbers there and in the whole model."""
    names = selection.names(turn)
    inside = [unit for unit in selection.units if unit.layer is not None]
    training = sum(set(unit.parameters) <= names for unit in inside)
    parts = ", ".join(f"{name.replace('_', '-')} {share:.0%}" for name, share in selection.shares(turn).items())
    return (
        f"{training} of {len(inside)} weights and norms of the blocks train: {numbers['blocks_share']:.1%} of their "
        f"numbers ({parts}), {numbers['share']:.1%} of the whole model"
    )
