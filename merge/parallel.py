"""Many tensors at once: threads of our own, and none of torch's below them."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TypeVar

import torch

T = TypeVar("T")
R = TypeVar("R")


@contextmanager
def single_threaded_torch() -> Iterator[None]:
    """Blocks are small: threads of torch's own would wait for each other more than they compute."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def at_once(work: Callable[[T], R], items: Iterable[T], threads: int | None = None) -> list[R]:
    """`work` on each item by `threads` threads (default: one for each core); the results in the items' order.

    The first error is raised when the items that were begun are done; the others are not begun.
    """
    workers = threads or len(os.sched_getaffinity(0))
    with single_threaded_torch(), ThreadPoolExecutor(workers) as pool:
        tasks = [pool.submit(work, item) for item in items]
        try:
            return [task.result() for task in tasks]
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
