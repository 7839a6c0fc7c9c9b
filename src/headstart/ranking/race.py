"""A race between modules: they read a task's examples in growing rounds, and those that cannot win leave.

What a round decides depends on nothing but the values that were read, so that a race over a stored table of values is
the race that would have been run. NumPy and SciPy only.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

from headstart.errors import SettingError, of_type

__all__ = ["Gaps", "Left", "Race", "Raced", "Read", "Why", "as_race", "going_on", "run_race"]

Read = Callable[[Sequence[int], slice], NDArray[np.float64]]
"""The values of some modules, by position, on some rows of the reading order: (modules, rows), NaN where missing."""

Why = Literal["behind", "tied", "budget", "missing"]
"""Why a module left: it is behind the leader at the stated confidence; it is not better than the leader by more than
the tie; it was among the last, and the budget does not last for all; it has no value."""


@dataclass(frozen=True)
class Race:
    """How modules race; differences between two modules are taken row by row.

    `confidence`: of the statement that the winner's mean over all rows is the best, or within `tie` of it, taken over
    all rounds and modules under the assumption that differences are about normal. `first`: rows of the first round;
    each further round doubles the rows read. `tie`: the largest difference that does not count, in standard errors of
    the leader's mean over all rows. `budget`: at most this share of what reading every row with every module takes,
    unless the first rows are unusually long; then the last leave after each round, however unsure that is, and the
    confidence no longer covers the winner. `None`: only modules that cannot win leave.
    """

    confidence: float = 0.95
    first: int = 4
    tie: float = 0.1
    budget: float | None = None

    def __post_init__(self) -> None:
        """Raise `SettingError` for a value that none of the settings can have."""
        if not 0 < self.confidence < 1:
            raise SettingError(f"confidence {self.confidence} must be above 0 and below 1; give for example 0.95")
        if self.first < 2:
            raise SettingError(f"first {self.first} must be at least 2: differences of one row tell no spread")
        if self.budget is not None and not 0 < self.budget < 1:
            raise SettingError(
                f"budget {self.budget} must be above 0 and below 1; give for example 0.2, or leave it out"
            )
        if not self.tie >= 0:
            raise SettingError(f"tie {self.tie} must be 0 or more; 0 counts every difference")

    def ends(self, rows: int) -> list[int]:
        """How many rows have been read after each round, of `rows` in all.

        >>> Race(first=4).ends(50)
        [4, 8, 16, 32, 50]
        """
        within = rows if self.budget is None else max(2, int(self.budget * rows / 2))
        ends = [min(self.first, within, rows)]
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


def run_race(read: Read, *, modules: int, rows: int, race: Race, costs: ArrayLike | None = None) -> Raced:
    """Race `modules` modules over `rows` rows; every round reads its rows of the modules that are still there.

    A single module that is left reads no more rows. `costs`: what each row takes of a budget, such as its tokens;
    `None`: all the same. Raises `SettingError` if a budget does not last for two rows.
    """
    ends = race.ends(rows)
    until = np.cumsum(np.ones(rows) if costs is None else np.asarray(costs, dtype=np.float64))
    if race.budget is not None and ends[0] > race.budget * rows:
        least = math.ceil(100 * ends[0] / rows) / 100
        raise SettingError(
            f"a budget of {race.budget} does not last for the first {ends[0]} of {rows} rows; "
            f"give at least {least}, or score on more rows"
        )
    seen = np.full((modules, rows), math.nan)
    course = _Course(race, ends, until, seen, list(range(modules)), [0] * modules)
    for number, (start, end) in enumerate(pairwise([0, *ends]), 1):
        course.seen[course.there, start:end] = read(course.there, slice(start, end))
        course.end_round(number)
        if len(course.there) < 2:
            break
    left = tuple(course.left.get(index) for index in range(modules))
    return Raced(tuple(ends), left, tuple(course.done), course.best())


@dataclass(frozen=True, eq=False)
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
        over all rows, of which n have been read. Where there are few different values, such as right and wrong, rows
        that all agree are no proof that all rows would, so s/√n is that of the differences with one more row for and
        one more against the leader, as far apart as values are (Bonett and Price, 2012); if all values are equal, the
        margin is infinite.
        """
        read = values.shape[1]
        leader = int(np.argmax(values.mean(axis=1)))
        differences = values[leader] - values
        if len(np.unique(values)) <= max(2, read // 2):
            widest = np.ptp(values) or math.inf
            squares = (np.square(differences).sum(axis=1) + 2 * widest**2) / (read + 2)
            deviations = np.sqrt((squares - np.square(differences.sum(axis=1) / (read + 2))) / (read + 2))
        else:
            deviations = differences.std(axis=1, ddof=1) / math.sqrt(read)
        spread = deviations * math.sqrt(1 - read / rows)
        error = float(values[leader].std(ddof=1)) / math.sqrt(rows)
        return cls(leader, differences.mean(axis=1), float(stats.t.ppf(1 - level, read - 1)) * spread, error)


def going_on(count: int, steps: Sequence[float], budget: float) -> int:
    """How many of `count` modules go on, so that rounds that take `steps` of each module take at most `budget`.

    After every round the same share goes on, as large as the budget allows; at least one module does.

    >>> going_on(100, [10, 20], 700)  # 39 · 10 + 15 · 20
    39
    """
    low, high = 0.0, 1.0
    for _ in range(30):
        share = (low + high) / 2
        spent = sum(max(1.0, count * share**number) * step for number, step in enumerate(steps, 1))
        low, high = (share, high) if spent <= budget else (low, share)
    return max(1, int(count * high + 1e-6))


@dataclass(eq=False)
class _Course:
    """A race under way: `seen` (modules, rows) is NaN where nothing was read, `there` are those that have not left."""

    race: Race
    ends: list[int]
    until: NDArray[np.float64]
    """What reading up to each row takes."""
    seen: NDArray[np.float64]
    there: list[int]
    done: list[int]
    left: dict[int, Left] = field(default_factory=dict)
    holding: set[int] = field(default_factory=set)
    """Modules that others left for because of a tie, and those that these are behind. They leave only when they are
    behind, so that the winner is within one tie of the best, however often the leader changes."""

    def end_round(self, number: int) -> None:
        """Decide who leaves after the round."""
        end = self.ends[number - 1]
        for index in self.there:
            self.done[index] = end
        self._without(
            {index: Left(number, "missing") for index in self.there if np.isnan(self.seen[index, :end]).any()}
        )
        if end == self.ends[-1] or len(self.there) < 2:
            return
        modules, rows = self.seen.shape
        # Any of the others, in any round but the last, may be the one that the best module loses against by chance.
        level = (1 - self.race.confidence) / ((len(self.ends) - 1) * (modules - 1))
        gaps = Gaps.of(self.seen[self.there, :end], rows=rows, level=level)
        gone = self._beaten(gaps, number)
        if self.race.budget is not None:
            staying = [place for place, index in enumerate(self.there) if index not in gone]
            spent = self.until[np.array(self.done) - 1]
            rest = self.race.budget * modules * self.until[-1] - spent.sum()
            steps = np.diff(self.until[np.array(self.ends[number - 1 :]) - 1])
            most = going_on(len(staying), steps.tolist(), float(rest))
            staying.sort(key=lambda place: (gaps.behind[place], place != gaps.leader))
            gone |= {self.there[place]: self._why("budget", gaps, place, number) for place in staying[most:]}
        self._without(gone)

    def best(self) -> int | None:
        """The finalist with the best mean, the first of equals."""
        means = {index: self.seen[index, : self.done[index]].mean() for index in self.there}
        return max(means, key=lambda index: (means[index], -index), default=None)

    def _beaten(self, gaps: Gaps, number: int) -> dict[int, Left]:
        """The modules that cannot be better than the leader at the stated confidence, or not by more than a tie."""
        gone: dict[int, Left] = {}
        tie = self.race.tie * gaps.error
        for place, index in enumerate(self.there):
            hope = gaps.margin[place] - gaps.behind[place]
            if place == gaps.leader:
                continue
            if hope < 0:
                gone[index] = self._why("behind", gaps, place, number)
            elif hope <= tie and index not in self.holding:
                gone[index] = self._why("tied", gaps, place, number)
        if any(left.why == "tied" for left in gone.values()) or self.holding & gone.keys():
            self.holding.add(self.there[gaps.leader])
        return gone

    def _why(self, why: Why, gaps: Gaps, place: int, number: int) -> Left:
        return Left(number, why, self.there[gaps.leader], float(gaps.behind[place]), float(gaps.margin[place]))

    def _without(self, gone: dict[int, Left]) -> None:
        self.left |= gone
        self.there = [index for index in self.there if index not in self.left]
