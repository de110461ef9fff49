"""Random numbers that depend on what they are for, not on when they are drawn."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from functools import lru_cache

import torch

_MULTIPLIERS = (0x7FEB352D, 0x846CA68B - 2**32, None)
_SHIFTS = (16, 15, 16)
_EPOCH = 2**31
_AT_ONCE = 2**16
_CPU = torch.device("cpu")


def uniform(key: Sequence[int | str], first: int, count: int, device: torch.device = _CPU) -> torch.Tensor:
    """Numbers `first` to `first + count` of the sequence that `key` names, float32 `[count]` in [0, 1), 24 bits each.

    Number i is `mix(a + b i mod 2^32) / 2^32` with a and odd b from a hash of the key: SplitMix (Steele, Lea, Flood
    2014) in 32 bits, `mix` the finaliser of least bias that C. Wellons found by search. A stretch is computed from its
    counter alone, so the cut into blocks, their order and the threads change nothing; every step is one vectorised
    operation, half the time of Philox, and exact in integers, so every device draws the same.
    """
    result = torch.empty(count, dtype=torch.float32, device=device)
    done = 0
    while done < count:
        epoch, offset = divmod(first + done, _EPOCH)
        part = min(count - done, _EPOCH - offset, _AT_ONCE if device.type == "cpu" else count)
        _fill(result[done : done + part], (*key, epoch), offset)
        done += part
    return result


@lru_cache(maxsize=1)
def _numbers() -> torch.Tensor:
    return torch.arange(_AT_ONCE, dtype=torch.int32)


def _counter(count: int, device: torch.device) -> torch.Tensor:
    return _numbers()[:count] if device.type == "cpu" else torch.arange(count, dtype=torch.int32, device=device)


@lru_cache(maxsize=4096)
def _start_and_step(key: tuple[int | str, ...]) -> tuple[int, int]:
    digest = hashlib.blake2b(repr(key).encode(), digest_size=8).digest()
    return int.from_bytes(digest[:4], "little"), int.from_bytes(digest[4:], "little") | 1


def _signed(word: int) -> int:
    word %= 2**32
    return word - 2**32 if word >= 2**31 else word


def _fill(result: torch.Tensor, key: tuple[int | str, ...], offset: int) -> None:
    start, step = _start_and_step(key)
    bits = torch.mul(_counter(len(result), result.device), _signed(step)).add_(_signed(start + step * offset))
    spare = result.view(torch.int32)  # the result's own memory serves for the shifted copies
    for shift, multiplier in zip(_SHIFTS, _MULTIPLIERS, strict=True):
        torch.bitwise_right_shift(bits, shift, out=spare)
        bits.bitwise_xor_(spare.bitwise_and_((1 << (32 - shift)) - 1))  # the shift copies the sign: cut it off
        if multiplier is not None:
            bits.mul_(multiplier)
    bits.bitwise_right_shift_(8).bitwise_and_(0xFFFFFF)
    result.copy_(bits).mul_(2.0**-24)
