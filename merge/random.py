"""Random numbers that depend on what they are for, not on when they are drawn."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from functools import lru_cache

import numpy as np
import torch

_MULTIPLIERS = (0x7FEB352D, 0x846CA68B, None)
_SHIFTS = (16, 15, 16)
_EPOCH = 2**31
_AT_ONCE = 2**16
_CPU = torch.device("cpu")


def uniform(key: Sequence[int | str], first: int, count: int, device: torch.device = _CPU) -> torch.Tensor:
    """Numbers `first` to `first + count` of the sequence that `key` names, float32 `[count]` in [0, 1), 24 bits each.

    Number i is `mix(a + b i mod 2^32) / 2^32` with a and odd b from a hash of the key: SplitMix (Steele, Lea, Flood
    2014) in 32 bits, `mix` the finaliser of least bias that C. Wellons found by search. A stretch is computed from its
    counter alone, so the cut into blocks, their order and the threads change nothing; every step is one vectorised
    operation and exact in integers, so every device draws the same.
    """
    result = torch.empty(count, dtype=torch.float32, device=device)
    done = 0
    while done < count:
        epoch, offset = divmod(first + done, _EPOCH)
        part = min(count - done, _EPOCH - offset, _AT_ONCE if device.type == "cpu" else count)
        start, step = _start_and_step((*key, epoch))
        fill = _fill if device.type == "cpu" else _fill_there
        fill(result[done : done + part], (start + step * offset) % 2**32, step)
        done += part
    return result


@lru_cache(maxsize=1)
def _numbers() -> np.ndarray:
    return np.arange(_AT_ONCE, dtype=np.uint32)


@lru_cache(maxsize=4096)
def _start_and_step(key: tuple[int | str, ...]) -> tuple[int, int]:
    digest = hashlib.blake2b(repr(key).encode(), digest_size=8).digest()
    return int.from_bytes(digest[:4], "little"), int.from_bytes(digest[4:], "little") | 1


def _fill(result: torch.Tensor, start: int, step: int) -> None:
    """In host memory: numpy has unsigned integers, whose shifts need no mask, and takes less than half the time."""
    numbers = result.numpy()
    bits = np.multiply(_numbers()[: len(numbers)], np.uint32(step))
    bits += np.uint32(start)
    spare = numbers.view(np.uint32)  # the result's own memory serves for the shifted copies
    for shift, multiplier in zip(_SHIFTS, _MULTIPLIERS, strict=True):
        np.right_shift(bits, np.uint32(shift), out=spare)
        bits ^= spare
        if multiplier is not None:
            bits *= np.uint32(multiplier)
    bits >>= np.uint32(8)
    numbers[:] = bits.view(np.int32)
    numbers *= np.float32(2.0**-24)


def _fill_there(result: torch.Tensor, start: int, step: int) -> None:
    """On another device: torch computes in signed integers alone, so a shift's copies of the sign are cut off."""
    bits = torch.arange(len(result), dtype=torch.int32, device=result.device).mul_(_signed(step)).add_(_signed(start))
    spare = result.view(torch.int32)
    for shift, multiplier in zip(_SHIFTS, _MULTIPLIERS, strict=True):
        torch.bitwise_right_shift(bits, shift, out=spare)
        bits.bitwise_xor_(spare.bitwise_and_((1 << (32 - shift)) - 1))
        if multiplier is not None:
            bits.mul_(_signed(multiplier))
    bits.bitwise_right_shift_(8).bitwise_and_(0xFFFFFF)
    result.copy_(bits).mul_(2.0**-24)


def _signed(word: int) -> int:
    return word - 2**32 if word >= 2**31 else word
