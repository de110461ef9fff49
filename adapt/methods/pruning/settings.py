"""Keys that say what of a model is pruned."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Literal

from pydantic import Field

from adapt.settings import Settings, Share, Whole

_RANGE = re.compile(r"(\d+)(?:-(\d+))?")


class Pruning(Settings):
    """Which share of the attention heads and of the feed-forward channels goes, and which."""

    ratio: Share = 0.5
    """Share that goes, of the heads and of the channels of each layer. A group of heads with a common key and value
    stays or goes as one; one at least stays."""
    layers: dict[str, Share] = Field(default_factory=dict)
    """Other ratios for some layers, counted from 0, as `"0-3": 0` or `"31": 20%`."""
    criterion: Literal["taylor", "magnitude", "random"] = "taylor"
    """What stays: that whose loss would change the loss on the first batches the most (`taylor`), the largest weights
    (`magnitude`), or what is drawn (`random`)."""
    seed: Whole = 0
    """Seed of the draw."""

    def ratios(self, count: int) -> list[float]:
        """The ratio of each of `count` layers."""
        found = [self.ratio] * count
        for text, ratio in self.layers.items():
            first, last = bounds(text)
            found[first : last + 1] = [ratio] * (last + 1 - first)
        return found[:count]

    def mistakes(self) -> Iterator[str]:
        """Ranges that are none, and ratios that leave everything as it is."""
        for text in self.layers:
            if not _RANGE.fullmatch(text) or bounds(text)[0] > bounds(text)[1]:
                yield f"'{text}' is no range of layers; write for example 0-3"


def bounds(text: str) -> tuple[int, int]:
    """First and last layer of `"4-28"` or `"7"`."""
    first, last = _RANGE.fullmatch(text).groups()
    return int(first), int(last or first)
