"""Hooks that last as long as a block."""

import contextlib
from collections.abc import Iterable, Iterator

from torch.utils.hooks import RemovableHandle

__all__ = ["attached"]


@contextlib.contextmanager
def attached(handles: Iterable[RemovableHandle]) -> Iterator[None]:
    """Keep hooks for the block; none is left when it ends, however it ends, nor when making one of them fails.

    `handles` is a generator that makes one hook after the other.
    """
    with contextlib.ExitStack() as removals:
        for handle in handles:
            removals.callback(handle.remove)
        yield
