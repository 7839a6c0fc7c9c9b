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

__all__ = ["BLENDED", "Gaps", "Left", "Race", "Raced", "Read", "Why", "as_race", "going_on", "run_race"]

Read = Callable[[Sequence[int], slice], NDArray[np.float64]]
"""The values of some modules, by position, on some rows of the reading order: (modules, rows), NaN where missing."""

BLENDED = 16
"""Winners of a race for a blend, where nothing is said: the default rule spreads its weight over 4 modules at most."""

Why = Literal["behind", "tied", "budget", "missing"]
"""Why a module left: it is behind the leader at the stated confidence; it is not better than the leader by more than
the tie; it was among the last, and the budget does not last for all; it has no value."""


@dataclass(frozen=True)
class Race:
    """How modules race; differences between two modules are taken row by row.

    `confidence`: of the statement that the winner's mean over all rows is the best, or within `tie` of it, taken over
    all rounds and modules under the assumption that differences are about normal; with several `winners`, that each of
    their means is at least the last of as many best ones, or within `tie` of it. `first`: rows of the first round;
    each further round doubles the rows read. `tie`: the largest difference that does not count, in standard errors of
    the leader's mean over all rows. `budget`: at most this share of what reading every row with every module takes,
    unless the first rows are unusually long; then the last leave after each round, however unsure that is, and the
    confidence no longer covers the winner. `None`: only modules that cannot win leave. `winners`: how many of the best
    are wanted; several read all rows, whatever the budget, so that their means can be compared with any.
    """

    confidence: float = 0.95
    first: int = 4
    tie: float = 0.1
    budget: float | None = None
    winners: int = 1

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
        if self.winners < 1:
            raise SettingError(f"a race has at least one winner, not {self.winners}; leave winners out for one")

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
    run. `winners`: as many finalists as the race wants, if there are so many, the best mean first.
    """

    ends: tuple[int, ...]
    left: tuple[Left | None, ...]
    rows: tuple[int, ...]
    winners: tuple[int, ...]

    @property
    def best(self) -> int | None:
        """The finalist with the best mean; `None` if no module has values."""
        return self.winners[0] if self.winners else None


def run_race(read: Read, *, modules: int, rows: int, race: Race, costs: ArrayLike | None = None) -> Raced:
    """Race `modules` modules over `rows` rows; every round reads its rows of the modules that are still there.

    Where one winner is wanted, a single module that is left reads no more rows. `costs`: what each row takes of a
    budget, such as its tokens; `None`: all the same. Raises `SettingError` if a budget does not last for two rows.
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
        if not course.there or len(course.there) == race.winners == 1:
            break
    left = tuple(course.left.get(index) for index in range(modules))
    return Raced(tuple(ends), left, tuple(course.done), course.winners())


@dataclass(frozen=True, eq=False)
class Gaps:
    """How far modules are behind a leader after a round; `behind` and `margin` have a value per module.

    `leader`: its place. `behind`: by how much the mean is below the leader's. `margin`: how far the difference over all
    rows may be from that, at the level asked for. `error`: the standard error of the leader's mean over all rows.
    """

    leader: int
    behind: NDArray[np.float64]
    margin: NDArray[np.float64]
    error: float

    @classmethod
    def of(cls, values: NDArray[np.float64], *, rows: int, level: float, place: int = 0) -> "Gaps":
        """The standing after `values` (modules, n rows), of `rows` in all; n is at least 2.

        The leader is the one with the best mean, the first if several have it; or with `place`, so many places below.
        A margin is t(n - 1) at 1 - `level`, times s/√n · √(1 - n/rows): what is wanted is the mean of the differences
        over all rows, of which n have been read. Where rows have equal values and equal differences, as right and wrong
        do, rows that all agree are no proof that all rows would, so s/√n is that of the differences with one more row
        for and one more against the leader, as far apart as values are (Bonett and Price, 2012); if all values are
        equal, the margin is infinite.
        """
        read = values.shape[1]
        leader = int(np.argsort(-values.mean(axis=1), kind="stable")[place])
        differences = values[leader] - values
        deviations = differences.std(axis=1, ddof=1) / math.sqrt(read)
        equal = _repeats(values)
        equal = ((equal | equal[leader]) & _repeats(differences)) | (len(np.unique(values)) <= 2)
        equal[leader] = np.ptp(values) == 0
        squares = (np.square(differences).sum(axis=1) + 2 * (np.ptp(values) or math.inf) ** 2) / (read + 2)
        wider = np.sqrt((squares - np.square(differences.sum(axis=1) / (read + 2))) / (read + 2))
        spread = np.where(equal, wider, deviations) * math.sqrt(1 - read / rows)
        error = float(values[leader].std(ddof=1)) / math.sqrt(rows)
        return cls(leader, differences.mean(axis=1), float(stats.t.ppf(1 - level, read - 1)) * spread, error)


def _repeats(values: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Which lines of (modules, rows) have a value more than once, (modules,)."""
    return np.asarray((np.diff(np.sort(values, axis=1), axis=1) == 0).any(axis=1))


def going_on(count: int, steps: Sequence[float], budget: float, *, least: int = 1) -> int:
    """How many of `count` modules go on, so that rounds that take `steps` of each module take at most `budget`.

    After every round the same share goes on, as large as the budget allows; at least `least` modules do.

    >>> going_on(100, [10, 20], 700)  # 39 · 10 + 15 · 20
    39
    """
    low, high = 0.0, 1.0
    for _ in range(30):
        share = (low + high) / 2
        spent = sum(max(least, count * share**number) * step for number, step in enumerate(steps, 1))
        low, high = (share, high) if spent <= budget else (low, share)
    return max(least, int(count * high + 1e-6))


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
        wanted = self.race.winners
        if end == self.ends[-1] or len(self.there) <= wanted:
            return
        modules, rows = self.seen.shape
        # Any of the others, in any round but the last, may be the one that one of the best loses against by chance.
        level = (1 - self.race.confidence) / ((len(self.ends) - 1) * wanted * (modules - wanted))
        read = self.seen[self.there, :end]
        leading = [Gaps.of(read, rows=rows, level=level, place=place) for place in range(wanted)]
        gone, gaps = self._beaten(leading, number), leading[0]
        if self.race.budget is not None:
            staying = [place for place, index in enumerate(self.there) if index not in gone]
            spent = self.until[np.array(self.done) - 1]
            rest = self.race.budget * modules * self.until[-1] - spent.sum()
            steps = np.diff(self.until[np.array(self.ends[number - 1 :]) - 1])
            most = going_on(len(staying), steps.tolist(), float(rest), least=wanted)
            staying.sort(key=lambda place: (gaps.behind[place], place != gaps.leader))
            gone |= {self.there[place]: self._why("budget", gaps, place, number) for place in staying[most:]}
        self._without(gone)

    def winners(self) -> tuple[int, ...]:
        """The finalists with the best means, as many as are wanted."""
        means = {index: self.seen[index, : self.done[index]].mean() for index in self.there}
        return tuple(sorted(means, key=lambda index: (-means[index], index))[: self.race.winners])

    def _beaten(self, leading: Sequence[Gaps], number: int) -> dict[int, Left]:
        """The modules that cannot be better than any of the leaders at the stated confidence, or not by more than a
        tie. `leading`: the standing behind each leader, as many as there are winners."""
        gone: dict[int, Left] = {}
        leaders, last = {gaps.leader for gaps in leading}, leading[-1]
        for place, index in enumerate(self.there):
            hopes = [gaps.margin[place] - gaps.behind[place] for gaps in leading]
            if place in leaders:
                continue
            if max(hopes) < 0:
                gone[index] = self._why("behind", last, place, number)
            elif index not in self.holding and all(
                hope <= self.race.tie * gaps.error for hope, gaps in zip(hopes, leading, strict=True)
            ):
                gone[index] = self._why("tied", last, place, number)
        if any(left.why == "tied" for left in gone.values()) or self.holding & gone.keys():
            self.holding |= {self.there[leader] for leader in leaders}
        return gone

    def _why(self, why: Why, gaps: Gaps, place: int, number: int) -> Left:
        return Left(number, why, self.there[gaps.leader], float(gaps.behind[place]), float(gaps.margin[place]))

    def _without(self, gone: dict[int, Left]) -> None:
        self.left |= gone
        self.there = [index for index in self.there if index not in self.left]
