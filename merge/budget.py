"""What threads hold of tensors between passes, beside their blocks: bounded for all of them together."""

from __future__ import annotations

import threading
import weakref


class Budget:
    """Bytes that all threads may hold together; what an object took comes back when it goes."""

    def __init__(self, size: int) -> None:
        self.size = self.left = size
        self._lock = threading.RLock()

    def lend(self, size: int, owner: object) -> bool:
        """Whether there is so much; it is the owner's then."""
        with self._lock:
            if size > self.left:
                return False
            self.left -= size
        weakref.finalize(owner, self._back, size)
        return True

    def _back(self, size: int) -> None:
        with self._lock:
            self.left += size


HELD = Budget(2**26)
"""Who finds too little left of it computes in one more pass what it could have kept."""
