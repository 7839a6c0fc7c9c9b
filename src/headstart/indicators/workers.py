"""Forward passes in several threads of a CPU, each with a batch of its own."""

import contextlib
from collections.abc import Iterator
from concurrent.futures import Executor, ThreadPoolExecutor

import torch

__all__ = ["usual_workers", "worker_threads"]

MOST_WORKERS = 16


def usual_workers(device: torch.device) -> int:
    """How many passes run at once: one a core, on a GPU one.

    While one thread normalizes, another multiplies; and no product waits until all cores have taken their share of it.
    """
    return min(torch.get_num_threads(), MOST_WORKERS) if device.type == "cpu" else 1


@contextlib.contextmanager
def worker_threads(count: int) -> Iterator[Executor]:
    """So many threads for the block, which share torch's cores among them; what was not begun is dropped at its end."""
    before = torch.get_num_threads()
    torch.set_num_threads(max(1, before // count))
    pool = ThreadPoolExecutor(count, thread_name_prefix="headstart-pass")
    try:
        yield pool
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
        torch.set_num_threads(before)
