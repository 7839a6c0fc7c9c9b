"""Forward passes in several CPU threads, each with its own batch."""

import contextlib
from collections.abc import Iterator
from concurrent.futures import Executor, ThreadPoolExecutor

import torch

__all__ = ["usual_workers", "worker_threads"]

MOST_WORKERS = 16


def usual_workers(device: torch.device) -> int:
    """How many passes run at once: one per core, or one on a GPU.

    While one thread normalizes, another multiplies; and no product waits until all cores have taken their share of it.
    """
    return min(torch.get_num_threads(), MOST_WORKERS) if device.type == "cpu" else 1


@contextlib.contextmanager
def worker_threads(count: int) -> Iterator[Executor]:
    """This many threads for the block, which share torch's cores; what has not begun is dropped at its end."""
    before = torch.get_num_threads()
    torch.set_num_threads(max(1, before // count))
    pool = ThreadPoolExecutor(count, thread_name_prefix="headstart-pass")
    try:
        yield pool
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
        torch.set_num_threads(before)
