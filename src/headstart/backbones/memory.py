"""What to do where memory runs out: say so, halve what is computed at once, and measure what a pass needs."""

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TypeVar

import torch

from headstart.errors import TooLargeError

__all__ = ["RAN_OUT", "MemoryUse", "in_halves", "require_ran_out", "watched"]

RAN_OUT = (RuntimeError, MemoryError, TooLargeError)
"""The types of errors that may say that memory ran out; `require_ran_out` raises again those that say otherwise."""

ON_A_CPU = ("can't allocate memory", "not enough memory")
"""What PyTorch's allocator says there, in an error that has no type of its own."""

T = TypeVar("T")


def require_ran_out(error: Exception) -> None:
    """Raise the error again unless it says that the memory of the device, or of the machine, ran out."""
    known = isinstance(error, torch.OutOfMemoryError | MemoryError | TooLargeError)
    if not known and not any(words in str(error) for words in ON_A_CPU):
        raise error


def in_halves(compute: Callable[[int], T], most: int, *, too_large: str) -> T:
    """`compute(most)`, and where memory runs out, the same with half as much at once, until it fits.

    Raises `TooLargeError` with the message `too_large` if it does not fit with 1 at once.
    """
    while True:
        try:
            return compute(most)
        except RAN_OUT as error:
            require_ran_out(error)
            if most <= 1:
                raise TooLargeError(too_large) from error
        most //= 2


@dataclass
class MemoryUse:
    """Bytes of a device: `used` at the peak beyond what was held before, and `free` at that peak; 0 if not measured."""

    used: int = 0
    free: int = 0


@contextlib.contextmanager
def watched(device: torch.device, *, wanted: bool = True) -> Iterator[MemoryUse]:
    """Measure what the block needs at its peak, if `wanted`. Only on CUDA; other devices do not say it."""
    use = MemoryUse()
    if device.type != "cuda" or not wanted:
        yield use
        return
    torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device)
    yield use
    peak = torch.cuda.max_memory_allocated(device)
    use.used = peak - before
    # What PyTorch holds in reserve is free to it, but not to the device.
    use.free = torch.cuda.mem_get_info(device)[0] + torch.cuda.memory_reserved(device) - peak
