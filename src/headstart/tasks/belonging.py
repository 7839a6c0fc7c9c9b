"""Which rows of a task belong together, so that none of them tells of another that is held out."""

from collections.abc import Hashable, Sequence

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from headstart.tasks.example import Example

__all__ = ["belonging"]


def belonging(examples: Sequence[Example]) -> list[int]:
    """A number for every row: the same for rows of one group, for equal rows, and for what either has in common.

    >>> belonging([Example("a", ("x",)), Example("b", ("x",), group="g"), Example("c", ("x",), group="g")])
    [0, 1, 1]
    """
    first: dict[Hashable, int] = {}
    pairs = []
    for place, row in enumerate(examples):
        keys = [("row", row.input, row.pair, row.outputs)] + ([] if row.group is None else [("group", row.group)])
        pairs += [(place, first.setdefault(key, place)) for key in keys]
    rows, others = np.array(pairs, dtype=np.int64).reshape(-1, 2).T
    linked = coo_array((np.ones(len(pairs)), (rows, others)), shape=(len(examples), len(examples)))
    return [int(number) for number in connected_components(linked, directed=False)[1]]
