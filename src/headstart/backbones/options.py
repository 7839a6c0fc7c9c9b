"""What reading many options after one prompt needs: how many are read at once, copies of caches, their likelihoods."""

import copy
from typing import Any

from torch import Tensor

__all__ = ["MOST_COPIED", "cache_rows", "gold_log_likelihood", "most_rows"]

MOST_COPIED = 2**28
"""The most bytes that options hold at once: copies of their prompts' keys and values, and float32 logits."""


def gold_log_likelihood(logits: Tensor, gold: Tensor) -> Tensor:
    """Sum of log p of the gold tokens, (rows,); -1 in `gold` is padding."""
    taken = logits.float().log_softmax(-1).gather(2, gold.clamp(min=0).unsqueeze(2)).squeeze(2)
    return taken.masked_fill(gold < 0, 0.0).sum(1)


def most_rows(copied: int, logits: int) -> int:
    """How many options are read at once, when each takes so many bytes of copies and so many logits."""
    return max(1, min(MOST_COPIED // max(copied, 1), MOST_COPIED // (4 * logits)))


def cache_rows(cache: Any, index: Tensor) -> Any:
    """A separate cache of some of the rows read before; sharing is safe, because layers replace tensors in it."""
    own = copy.copy(cache)
    own.layers = [copy.copy(layer) for layer in cache.layers]
    own.batch_select_indices(index)
    return own
