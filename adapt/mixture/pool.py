"""A bounded pool of adapters on the compute device: what was used last stays, what was used longest ago goes."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping

from adapt.mixture.stack import Factors


class Pool:
    """Adapters' factors by name, at most `budget` bytes of them, the least recently used evicted first.

    `load` brings one adapter's factors by module to the device. One that is larger than the room there is is handed
    out all the same, and not kept.
    """

    def __init__(self, load: Callable[[str], Mapping[str, Factors]], budget: int) -> None:
        self.budget, self.loads = budget, 0
        self._load = load
        self._held: OrderedDict[str, Mapping[str, Factors]] = OrderedDict()
        self._sizes: dict[str, int] = {}

    def __contains__(self, name: str) -> bool:
        return name in self._held

    @property
    def bytes(self) -> int:
        """What the pool holds now."""
        return sum(self._sizes.values())

    def get(self, name: str, room: int | None = None) -> Mapping[str, Factors]:
        """An adapter's factors, loaded where they are not held; at most `room` bytes are held afterwards."""
        room = self.budget if room is None else room
        if name in self._held:
            self._held.move_to_end(name)
            found = self._held[name]
        else:
            found = self._load(name)
            self.loads += 1
            self._held[name], self._sizes[name] = found, size_of(found)
        self.shrink(room)
        return found

    def shrink(self, room: int) -> None:
        """Evict until at most `room` bytes are held."""
        while self._held and self.bytes > room:
            name, _ = self._held.popitem(last=False)
            del self._sizes[name]

    def forget(self, name: str) -> None:
        """Drop one adapter if it is held."""
        if self._held.pop(name, None) is not None:
            del self._sizes[name]


def size_of(factors: Mapping[str, Factors]) -> int:
    """Bytes of an adapter's factors."""
    return sum(t.numel() * t.element_size() for own in factors.values() for t in (own.a, own.b))
