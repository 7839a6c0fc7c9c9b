"""A race between modules: they read a task's examples in growing rounds, and those that cannot win leave.

What a round decides depends on nothing but the values that were read, so that a race over a stored table of values is
the race that would have been run. NumPy and SciPy only.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from headstart.errors import SettingError, of_type

__all__ = ["Gaps", "Left", "Race", "Raced", "Read", "Why", "as_race", "run_race"]

Read = Callable[[Sequence[int], slice], NDArray[np.float64]]
"""The values of some modules, by position, on some rows of the reading order: (modules, rows), NaN where missing."""

Why = Literal["behind", "tied", "last", "missing"]
"""Why a module left: it is behind the leader at the stated confidence; it is not better than the leader by more than
the tie; it was among the last, and only so many may stay; it has no value."""


@dataclass(frozen=True)
class Race:
    """How modules race; differences between two modules are taken row by row.

    `confidence`: of the statement that the winner's mean over all rows is the best, or within `tie` of it, taken over
    all rounds and modules under the assumption that differences are about normal. `first`: rows of the first round;
    each further round doubles the rows read. `keep`: at most this share of the modules goes on after a round, however
    unsure that is; `None`: only modules that cannot win leave. `tie`: the largest difference that does not count, in
    standard errors of the leader's mean over all rows.
    """

    confidence: float = 0.95
    first: int = 4
    keep: float | None = None
    tie: float = 0.1

    def __post_init__(self) -> None:
        """Raise `SettingError` for a value that none of the settings can have."""
        if not 0 < self.confidence < 1:
            raise SettingError(f"confidence {self.confidence} must be above 0 and below 1; give for example 0.95")
        if self.first < 2:
            raise SettingError(f"first {self.first} must be at least 2: differences of one row tell no spread")
        if self.keep is not None and not 0 < self.keep < 1:
            raise SettingError(f"keep {self.keep} must be above 0 and below 1; give for example 0.5, or leave it out")
        if not self.tie >= 0:
            raise SettingError(f"tie {self.tie} must be 0 or more; 0 counts every difference")

    def ends(self, rows: int) -> list[int]:
        """How many rows have been read after each round, of `rows` in all.

        >>> Race(first=4).ends(50)
        [4, 8, 16, 32, 50]
        """
        ends = [min(self.first, rows)]
        while ends[-1] < rows:
            ends.append(min(2 * ends[-1], rows))
        # A last round of a few rows would decide next to nothing.
        if len(ends) > 1 and rows - ends[-2] < ends[-2] // 4:
            del ends[-2]
        return ends


def as_race(given: Race | bool) -> Race | None:
    """What a caller asked for; raises `SettingError` for a value of another type."""
    if not isinstance(given, Race | bool):
        raise SettingError(f"{of_type('race', given)}; give True, or a Race")
    return (Race() if given else None) if isinstance(given, bool) else given


@dataclass(frozen=True)
class Left:
    """That a module left: after which round, why, and compared with which module (`leader`, a position).

    `behind`: by how much its mean is below the leader's on the rows that both have read; `margin`: how far the
    difference over all rows may be from that at the stated confidence.
    """

    round: int
    why: Why
    leader: int | None = None
    behind: float = math.nan
    margin: float = math.nan


@dataclass(frozen=True)
class Raced:
    """What became of every module, by position.

    `left`: `None` for a finalist. `rows`: how many it has read. `ends`: the rows read after each round, had all been
    run. `best`: the finalist with the best mean, the first of equals; `None` if no module has values.
    """

    ends: tuple[int, ...]
    left: tuple[Left | None, ...]
    rows: tuple[int, ...]
    best: int | None


def run_race(read: Read, *, modules: int, rows: int, race: Race) -> Raced:
    """Race `modules` modules over `rows` rows; every round reads its rows of the modules that are still there.

    A single module that is left reads no more rows.
    """
    ends = race.ends(rows)
    # Any of the others, in any round but the last, may be the one that the best module loses against by chance.
    level = (1 - race.confidence) / max(1, (len(ends) - 1) * (modules - 1))
    seen = np.full((modules, rows), math.nan)
    left: dict[int, Left] = {}
    holding: set[int] = set()
    done = [0] * modules
    there = list(range(modules))
    for number, (start, end) in enumerate(pairwise([0, *ends]), 1):
        seen[there, start:end] = read(there, slice(start, end))
        for index in there:
            done[index] = end
        left |= {index: Left(number, "missing") for index in there if np.isnan(seen[index, :end]).any()}
        there = [index for index in there if index not in left]
        if end < rows and len(there) > 1:
            left |= _leaving(seen[:, :end], there, race, rows=rows, level=level, number=number, holding=holding)
            there = [index for index in there if index not in left]
        if len(there) < 2:
            break
    best = max(there, key=lambda index: (seen[index, : done[index]].mean(), -index), default=None)
    return Raced(tuple(ends), tuple(left.get(index) for index in range(modules)), tuple(done), best)


@dataclass(frozen=True)
class Gaps:
    """How far modules are behind the leader after a round; `behind` and `margin` have a value per module.

    `leader`: place of the one with the best mean, the first if several have it. `behind`: by how much the mean is below
    the leader's. `margin`: how far the difference over all rows may be from that, at the level asked for. `error`: the
    standard error of the leader's mean over all rows.
    """

    leader: int
    behind: NDArray[np.float64]
    margin: NDArray[np.float64]
    error: float

    @classmethod
    def of(cls, values: NDArray[np.float64], *, rows: int, level: float) -> "Gaps":
        """The standing after `values` (modules, n rows), of `rows` in all; n is at least 2.

        A margin is t(n - 1) at 1 - `level`, times s/√n · √(1 - n/rows): what is wanted is the mean of the differences
        over all rows, of which n have been read.
        """
        read = values.shape[1]
        leader = int(np.argmax(values.mean(axis=1)))
        differences = values[leader] - values
        spread = differences.std(axis=1, ddof=1) * math.sqrt((1 - read / rows) / read)
        error = float(values[leader].std(ddof=1)) / math.sqrt(rows)
        return cls(leader, differences.mean(axis=1), float(stats.t.ppf(1 - level, read - 1)) * spread, error)


def _leaving(
    seen: NDArray[np.float64],
    there: Sequence[int],
    race: Race,
    *,
    rows: int,
    level: float,
    number: int,
    holding: set[int],
) -> dict[int, Left]:
    """Who leaves after a round, of the modules that are still there.

    `holding` are modules that others left for because of a tie: they leave only when they are behind, so that the
    winner is within one tie of the best, however often the leader changes.
    """
    now = Gaps.of(seen[there], rows=rows, level=level)
    leader, tie = there[now.leader], race.tie * now.error
    left: dict[int, Left] = {}
    stays = math.ceil(race.keep * len(there)) if race.keep is not None else len(there)
    order = sorted(range(len(there)), key=lambda place: now.behind[place])
    for rank, place in enumerate(order):
        index, hope = there[place], now.margin[place] - now.behind[place]
        why: Why | None = None
        if index == leader:
            continue
        if hope < 0:
            why = "behind"
        elif hope <= tie and index not in holding:
            why = "tied"
        elif rank >= stays:
            why = "last"
        if why is not None:
            left[index] = Left(number, why, leader, float(now.behind[place]), float(now.margin[place]))
    if any(each.why == "tied" for each in left.values()):
        holding.add(leader)
    return left
