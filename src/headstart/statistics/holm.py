"""Several comparisons at once."""

from collections.abc import Sequence

import numpy as np

__all__ = ["holm"]


def holm(p: Sequence[float]) -> list[float]:
    """The p-values adjusted by Holm (1979), so that the chance of any false claim at all stays below the level.

    NaN, a comparison that was not made, stays NaN and does not count.

    >>> holm([0.01, 0.04, 0.03, float("nan")])
    [0.03, 0.06, 0.06, nan]
    """
    values = np.asarray(p, dtype=np.float64)
    order = [int(index) for index in np.argsort(values) if not np.isnan(values[index])]
    adjusted = np.full(len(values), np.nan)
    largest = 0.0
    for rank, index in enumerate(order):
        largest = max(largest, min(1.0, float(values[index]) * (len(order) - rank)))
        adjusted[index] = largest
    return [float(value) for value in adjusted]
