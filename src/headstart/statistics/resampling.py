"""Rows drawn again with replacement: the weights of each draw, and the score of each draw."""

from collections.abc import Callable, Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

__all__ = ["DRAWS", "group_numbers", "resampled", "resampled_lists", "row_weights"]

DRAWS = 10_000
"""Draws of a bootstrap, where the table of parts is small enough."""
LEAST_DRAWS = 1_000
FEW_DRAWS = 400
"""Draws where each has to be scored anew: a standard error is known to one part in 28."""
_MOST_WORK = 2e11
"""Multiplications of one call that a bootstrap may cost before it draws less often: some ten seconds on two cores."""
_CHUNK = 4_000_000
"""Weights (draws × rows) held at a time."""

Floats = NDArray[np.float64]
Whole = Callable[[Floats, Floats], Floats]


def group_numbers(groups: Sequence[str]) -> NDArray[np.int64]:
    """The group of every row as a number from 0; rows without a name ("") are groups of one.

    >>> group_numbers(["a", "", "a", ""]).tolist()
    [0, 1, 0, 2]
    """
    keys = [group or str(row) for row, group in enumerate(groups)]
    named = [bool(group) for group in groups]
    numbers: dict[tuple[bool, str], int] = {}
    found = [numbers.setdefault(key, len(numbers)) for key in zip(named, keys, strict=True)]
    return np.array(found, dtype=np.int64)


def row_weights(groups: NDArray[np.int64], *, draws: int, seed: int) -> Iterator[Floats]:
    """How often each draw holds each row, as arrays (some draws, rows); all of them together have `draws` rows.

    As many groups are drawn as there are, with replacement, and all rows of a group as often as the group. The draws
    depend on nothing but the groups' numbers and `seed`.
    """
    count = int(groups.max()) + 1
    generator = np.random.default_rng(seed)
    size = max(1, _CHUNK // max(count, len(groups)))
    alone = bool((groups == np.arange(len(groups))).all())
    for first in range(0, draws, size):
        held = min(size, draws - first)
        drawn = generator.integers(count, size=(held, count))
        drawn += np.arange(held)[:, None] * count
        times = np.bincount(drawn.ravel(), minlength=held * count).reshape(held, count).astype(np.float64)
        yield times if alone else times[:, groups]


def resampled(
    parts: Sequence[Floats], whole: Whole, groups: NDArray[np.int64], *, draws: int = DRAWS, seed: int = 0
) -> Floats:
    """The score of every set of answers in every draw of rows, an array (len(parts), draws).

    All sets are scored on the same rows of a draw. `parts` and `whole` are those of a metric: the score of a draw is
    `whole(weights @ parts, weights.sum(1))`. Large tables are drawn less often, never below 1,000 times.
    """
    widths = [part.shape[1] for part in parts]
    joined = np.concatenate(list(parts), axis=1)
    affordable = int(_MOST_WORK / joined.size)
    draws = min(draws, max(LEAST_DRAWS, affordable))
    bounds = np.cumsum(widths)[:-1]
    scores = []
    for weights in row_weights(groups, draws=draws, seed=seed):
        counts = weights.sum(1)
        scores.append(np.stack([whole(sums, counts) for sums in np.split(weights @ joined, bounds, axis=1)]))
    return np.concatenate(scores, axis=1)


def resampled_lists(
    scores: Sequence[Callable[[Sequence[int]], float]],
    groups: NDArray[np.int64],
    *,
    draws: int = FEW_DRAWS,
    seed: int = 0,
) -> Floats:
    """As `resampled`, for a score that is no function of sums: each of `scores` is called with the rows of every draw.

    Returns an array (len(scores), draws).
    """
    found = []
    for weights in row_weights(groups, draws=draws, seed=seed):
        for times in weights:
            rows = np.repeat(np.arange(len(times)), times.astype(np.int64)).tolist()
            found.append([score(rows) for score in scores])
    return np.array(found, dtype=np.float64).T
