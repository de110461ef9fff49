"""Keys of the low-rank methods that have keys of their own."""

from __future__ import annotations

from adapt.settings import Count, Positive, Settings, Share, Whole


class Refactor(Settings):
    """Put what was learned into the weights and begin again, several times in a run (ReLoRA): for long training."""

    every: Count
    """Updates of the optimiser between two restarts."""
    warmup: Whole = 50
    """Updates after a restart in which the learning rate rises again from zero."""
    prune: Share = 0.999
    """Share of the optimiser's moments that a restart sets to zero; with 1 all of its state is dropped."""


class RankSelect(Settings):
    """Let every layer find its rank: a gate for each rank, and a pull of all gates towards zero."""

    shrink: Positive = 5e-3
    """How far each update pulls a gate, 1 at first, towards zero; the schedule scales it."""
    begin: Share = 0.1
    """Share of the run without a pull."""
    gate_rate: Positive = 10
    """Learning rate of the gates, as a multiple of the schedule's."""


class Average(Settings):
    """A second, slow adapter: the moving average of the one that trains, written beside it."""

    decay: Share = 0.95
    """Share of the average that is kept when an update joins it."""
    every: Count = 10
    """Updates of the optimiser between two of these."""
