"""Beside the steps of a run that trains a mixture: the gates' losses, and how the gates use the adapters."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, ClassVar

import torch

from adapt.mixture.losses import Losses
from adapt.mixture.mixture import mixture_in, routers_of
from adapt.mixture.observing import Observation, collected, observe_batches
from adapt.training.companion import Companion

_ROWS = 64
"""Rows of the run's own data on which the gates are measured in the end."""


class Gating(Companion):
    """Gives the gates their losses; writes their usage to the log, and in the end to the manifest."""

    name: ClassVar[str] = "mixture"

    def __init__(self, model: Any, losses: Losses) -> None:
        self.model, self.losses, self.mixture = model, losses, mixture_in(model)

    def prepare(self, run: Any) -> None:
        """A gate's loss is a mean over a batch: an update's is that over its batches and gates."""
        self.run = run
        self.losses.scale = 1 / (max(1, len(routers_of(self.model))) * run.plan.accumulation)
        self.mixture.routing.losses = self.losses

    def on_step_begin(self, args: Any, state: Any, control: Any, **others: Any) -> None:
        """Observe the steps that are logged."""
        step, routing = state.global_step + 1, self.mixture.routing
        routing.watched = step == 1 or step % self.run.plan.log_every == 0
        routing.observed.clear()

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **others: Any) -> None:
        """One line of the log, before evaluations pass through the gates as well."""
        routing = self.mixture.routing
        if not routing.watched:
            return
        routing.watched = False
        found = collected(routing)
        self.run.log.write("mixture", step=state.global_step + 1, **_logged(found))

    def numbers(self) -> dict[str, Any]:
        """`usage[layer][domain][adapter]` as mean weights, `first` likewise, `entropy[layer][domain]` in nats.

        Measured on the first rows of the run's data, a source at a time.
        """
        found: dict[str, dict[str, Observation]] = {}
        with self.run.plan.precision.autocast():
            for source, rows in self._rows().items():
                batches = self._batches(rows)
                found[source] = observe_batches(self.model, self.mixture.routing, batches)
        layers = list(routers_of(self.model))
        self.mixture.averages = {
            layer: sum((own[layer] for own in list(found.values())[1:]), next(iter(found.values()))[layer]).average
            for layer in layers
        }
        per = [[own[layer].numbers() for own in found.values()] for layer in layers]
        kinds = {name: [[cell[name] for cell in row] for row in per] for name in ("usage", "first", "entropy")}
        return {
            "names": list(self.mixture.names),
            "layers": layers,
            "domains": list(found),
            "router": self.mixture.router.kind,
            "gate": self.mixture.gate,
            **kinds,
        }

    def _rows(self) -> dict[str, list[Any]]:
        """The first rows of the stream by their source."""
        found: dict[str, list[Any]] = {}
        for index in range(min(_ROWS, len(self.run.stream))):
            row = self.run.stream[index]
            found.setdefault(row.get("source", ""), []).append(row)
        return found

    def _batches(self, rows: list[Any]) -> Iterator[dict[str, torch.Tensor]]:
        size = self.run.plan.batch_size
        for start in range(0, len(rows), size):
            yield self.run.collate(rows[start : start + size])


def _logged(found: Mapping[str, Observation]) -> dict[str, Any]:
    """Usage and entropy by layer, and the gates' losses as means over the layers."""
    cells = {layer: observation.numbers() for layer, observation in found.items()}
    losses: dict[str, list[float]] = {}
    for observation in found.values():
        for name, value in observation.losses.items():
            losses.setdefault(name, []).append(float(value))
    return {
        "usage": {layer: cell["usage"] for layer, cell in cells.items()},
        "entropy": {layer: cell["entropy"] for layer, cell in cells.items()},
        **{name: sum(values) / len(values) for name, values in losses.items()},
    }
