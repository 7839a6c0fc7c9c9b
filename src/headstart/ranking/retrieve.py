"""Retrieval: the few modules of a large hub that are worth a pass, by lists that cost next to none."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from scipy import stats

from headstart.errors import SettingError, of_type

__all__ = ["JOINS", "Join", "Retrieval", "as_retrieval", "joined"]

Join = Literal["mean_rank", "best_rank"]
"""How the ranks that a module has in several lists become one: their mean, or the best of them."""

JOINS: tuple[Join, ...] = get_args(Join)


@dataclass(frozen=True)
class Retrieval:
    """Which modules take part: the first `keep` of a list, or of several lists joined.

    `by`: specs of the indicators that make a list each; none: "similarity:embedding=gram", or "tupate" unless most
    modules are LoRA, for which a reference module is tuned if none is given; or "arrow", one pass of the bare backbone,
    for a task without a train split. `join`: how ranks are joined.
    """

    keep: int
    by: tuple[str, ...] = ()
    join: Join = "mean_rank"

    def __post_init__(self) -> None:
        """Raise `SettingError` for a value that none of the settings can have."""
        if self.keep < 1:
            raise SettingError(f"cannot retrieve {self.keep} modules; give 1 or more, or leave it out")
        if self.join not in JOINS:
            raise SettingError(f"unknown join '{self.join}'; choose one of: {', '.join(JOINS)}")


def as_retrieval(given: Retrieval | int | None) -> Retrieval | None:
    """What a caller asked for; raises `SettingError` for a value of another type."""
    if isinstance(given, bool) or not isinstance(given, Retrieval | int | None):
        raise SettingError(f"{of_type('retrieve', given)}; give a number of modules, or a Retrieval")
    return Retrieval(given) if isinstance(given, int) else given


def joined(lists: Mapping[str, Sequence[float]], join: Join = "mean_rank") -> list[int]:
    """Positions of the modules, best first: `lists` holds a value per module under the name of each list.

    Higher values are better. Equal values share the mean of their ranks, and modules without a value share the ranks
    after all others; modules that are joined to the same rank keep their order.

    >>> joined({"arrow": [0.2, 0.9, 0.5], "tupate": [0.1, 0.4, 0.8]})
    [1, 2, 0]
    """
    values = np.array([list(each) for each in lists.values()], dtype=np.float64)
    ranks = stats.rankdata(np.where(np.isnan(values), np.inf, -values), axis=1)
    together = ranks.mean(axis=0) if join == "mean_rank" else ranks.min(axis=0)
    return [int(index) for index in np.argsort(together, kind="stable")]
