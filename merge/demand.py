"""What a thread holds while it makes one tensor, and how many threads may do so at once.

The bound on a merge's memory is one for all threads together, so a merge that is given more of them than fit makes do
with fewer: which they are changes no byte of the result.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import TYPE_CHECKING

from merge.adapters import AdapterVector
from merge.device import workers_for
from merge.formula import Call, Formula, Linear, leaves

if TYPE_CHECKING:
    from merge.planning import Merge
    from merge.writer import Output

TOGETHER = 3 * 2**26
"""Bytes that all threads' blocks may take; what they keep of tensors between passes has its own bound (`budget`)."""
_OF_A_CALL, _OF_A_SUM = 8, 2
"""Blocks in float32 that a method, or a sum, makes beside its inputs."""
_OF_A_THREAD = 2**22


def threads_within(limit: int, wanted: int, demands: Iterable[int]) -> int:
    """The most threads, `wanted` at most and one at least, of which any may make any of the tensors within `limit`."""
    held = count = 0
    for demand in sorted(demands, reverse=True)[:wanted]:
        held += demand
        if held > limit:
            break
        count += 1
    return max(1, count)


def threads_for(merge: Merge, outputs: Iterable[Output], wanted: int | None = None) -> int:
    """How many threads make tensors of the output; `wanted` at most (default: what the device has cores for)."""
    most = wanted or workers_for(merge.device, len(os.sched_getaffinity(0)))
    return threads_within(TOGETHER, most, [demand(merge, output) for output in outputs])


def demand(merge: Merge, output: Output) -> int:
    """Bytes of host memory held while a tensor is made: a block of each input as it is read and converted, factors of
    adapters, and what is computed from them (on a GPU nothing but what is read)."""
    target, part = merge.target(output), merge.parts[output.name]
    inputs = merge.inputs(output)
    count, here = min(target.step, target.height) * target.width, merge.device.type == "cpu"
    wide = inputs.accumulate.itemsize if here else 0
    held = _OF_A_THREAD + (4 * count * (_OF_A_CALL if _calls(part.formula) else _OF_A_SUM) if here else 0)
    for name in leaves(part.formula):
        vector = merge.adapters.get(name)
        if isinstance(vector, AdapterVector):
            held += wide * vector.numbers(output.name, inputs.name_in)
        read = inputs.checkpoints[name].tensors[part.names[name]].dtype.itemsize if name in part.names else 4
        held += count * (read + wide)
    return held


def _calls(formula: Formula | None) -> bool:
    if isinstance(formula, Linear):
        sides = [side for difference in formula.differences for side in (difference.minuend, difference.subtrahend)]
        return any(_calls(part) for part in (formula.start, *sides))
    return isinstance(formula, Call)
