"""Which rows a tuning reads in each step."""

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass, field

__all__ = ["RowOrder"]

WINDOW = 16
"""The rows of this many batches are sorted by length together."""


@dataclass
class RowOrder:
    """Batches of similar lengths, every row once per epoch; a function of lengths, size, seed and step only.

    The seed decides which rows share a batch. It does not decide whether a step reads short or long rows, so that
    lanes of one task read rows of similar lengths in the same step and need little padding.
    """

    lengths: Sequence[int]
    size: int
    seed: int
    _epoch: tuple[int, list[list[int]]] = field(default=(-1, []), repr=False)

    def at(self, step: int) -> list[int]:
        """The rows of a step, counted from 0."""
        per_epoch = math.ceil(len(self.lengths) / self.size)
        epoch, place = divmod(step, per_epoch)
        if self._epoch[0] != epoch:
            self._epoch = (epoch, self._batches(epoch))
        return self._epoch[1][place]

    def _batches(self, epoch: int) -> list[list[int]]:
        rng = random.Random(f"{self.seed}/{epoch}")
        order = list(range(len(self.lengths)))
        rng.shuffle(order)
        batches = []
        for start in range(0, len(order), self.size * WINDOW):
            # Lengths are blurred by a third; otherwise each epoch would have nearly the same batches.
            blurred = {
                index: self.lengths[index] * rng.uniform(0.75, 1.33)
                for index in order[start : start + self.size * WINDOW]
            }
            near = sorted(blurred, key=lambda index: blurred[index])
            batches += [near[first : first + self.size] for first in range(0, len(near), self.size)]
        random.Random(f"lengths/{epoch}").shuffle(batches)
        return batches
