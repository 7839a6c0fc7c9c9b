"""A mean difference over seeds and rows, its error, and what would have decided it."""

import math
from bisect import bisect_left
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import stdtr, stdtrit

__all__ = ["ENOUGH_SEEDS", "LEVEL", "MOST_ROWS", "MOST_SEEDS", "POWER", "Components", "Difference", "difference"]

LEVEL = 0.95
POWER = 0.8
"""How often a study is to show the difference that it is planned for; 80 % is the convention."""
ENOUGH_SEEDS = 6
"""With fewer seeds, nothing is said of other seeds."""
MOST_SEEDS, MOST_ROWS = 100, 100_000
HALF_A_ROW = 0.5
"""What a score that does not count rows as right or wrong is never taken to be more certain than, in rows."""

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Components:
    """Variances of a difference: between seeds, between groups of rows, and what both do together, each of one unit.

    Over all seeds, the mean difference of S seeds on G groups has the variance seeds/S + rows/G + both/(S·G); over
    these very seeds, it is without the first term. What rows give is never below (1 + 1/S)/(R + 2)², with
    R = G · `size` rows: rows that all agree are no proof that all rows would. For one seed, that is the variance that
    remains where Bonett and Price (2012) add one observation to each of the two cells in which paired answers differ.
    Several seeds would leave 2/(R + 2)² if they always answered alike, and 2/S of it if they had nothing to do with
    each other; it is halfway. If rows are not `counted` as right or wrong, as in a correlation, it is ¼/(R + 2)²: half
    a row, as a whole one made the intervals of 50 rows too long in simulations (docs/statistics.md).
    """

    seeds: float
    rows: float
    both: float
    size: float = 1.0
    counted: bool = True

    def spread(self, seeds: int, groups: int) -> tuple[float, float]:
        """The standard error of the mean difference of so many seeds and groups, and its degrees of freedom.

        The latter after Satterthwaite (1946), from G − 1 of the groups and S − 1 of the seeds.
        """
        again = self.both / (seeds * groups)
        least = 1 + 1 / seeds if self.counted else HALF_A_ROW**2
        within = max(self.rows / groups + again, least / (self.size * groups + 2) ** 2)
        if seeds < ENOUGH_SEEDS:
            return math.sqrt(within), groups - 1.0
        between = self.seeds / seeds
        variance = within + between
        df = variance**2 / (within**2 / (groups - 1) + (between + again) ** 2 / (seeds - 1))
        return math.sqrt(variance), df

    def shows(self, mean: float, seeds: int, groups: int, *, alpha: float) -> bool:
        """Whether so many seeds and groups show a true difference of `mean` in 80 of 100 studies."""
        error, df = self.spread(seeds, groups)
        return _reach(df, alpha) * error <= abs(mean)


@dataclass(frozen=True)
class Difference:
    """The mean difference of paired scores over seeds, with its standard error.

    `df`: the degrees of freedom of Student's t. `seeds` and `groups` are how many there were. Where nothing is known of
    the error, it is NaN and `reason` says why.
    """

    mean: float
    error: float
    df: float
    seeds: int
    groups: int
    components: Components
    reason: str = ""

    @property
    def over_seeds(self) -> bool:
        """Whether it is about all seeds, rather than about these only."""
        return self.seeds >= ENOUGH_SEEDS

    @property
    def p(self) -> float:
        """The two-sided p-value of Student's t for no difference."""
        if math.isnan(self.error):
            return math.nan
        return float(2 * stdtr(self.df, -abs(self.mean) / self.error))

    def interval(self, level: float = LEVEL) -> tuple[float, float]:
        """The two-sided interval of Student's t."""
        half = float(stdtrit(self.df, 0.5 + level / 2)) * self.error
        return self.mean - half, self.mean + half

    def smallest(self, alpha: float = 1 - LEVEL) -> float:
        """The smallest difference that would have been shown, at two-sided `alpha`, in 80 of 100 such studies."""
        return _reach(self.df, alpha) * self.error

    def seeds_needed(self, alpha: float = 1 - LEVEL) -> float:
        """How many seeds on these rows would show a difference like this in 80 of 100 studies; NaN above 100."""
        if math.isnan(self.error) or self.seeds < 2:
            return math.nan
        more = range(self.seeds + 1, MOST_SEEDS + 1)
        shown = (seeds for seeds in more if self.components.shows(self.mean, seeds, self.groups, alpha=alpha))
        return next(shown, math.nan)

    def groups_needed(self, alpha: float = 1 - LEVEL) -> float:
        """How many groups of rows with these seeds would show it in 80 of 100 studies; NaN above 100,000 rows."""
        if math.isnan(self.error):
            return math.nan
        most = int(MOST_ROWS / self.components.size)
        found = bisect_left(
            range(most + 1), True, lo=min(self.groups, most) + 1,
            key=lambda groups: self.components.shows(self.mean, self.seeds, groups, alpha=alpha),
        )  # fmt: skip
        return float(found) if found <= most else math.nan


def _reach(df: float, alpha: float) -> float:
    """Standard errors that a true difference needs to be shown at two-sided `alpha` with the usual power."""
    return float(stdtrit(df, 1 - alpha / 2) + stdtrit(df, POWER))


def difference(
    observed: Floats, drawn: Floats, *, groups: int, rows: int | None = None, counted: bool = True
) -> Difference:
    """The mean of paired differences with its error over rows and, from 6 seeds on, over seeds.

    Args:
        observed: the difference of each seed (S,).
        drawn: the difference of each seed in every draw of rows (S, draws); draws with a NaN do not count.
        groups: how many groups each draw draws.
        rows: how many rows are in them; `None`: each is a group of its own.
        counted: whether the scores count rows as right or wrong, or as something between; see `Components`.
    """
    seeds, mean = len(observed), float(observed.mean())
    unknown = _unknown(drawn, groups)
    if unknown:
        return Difference(mean, math.nan, math.nan, seeds, groups, Components(math.nan, math.nan, math.nan), unknown)
    defined = drawn[:, ~np.isnan(drawn).any(0)]
    again = groups / (groups - 1)
    of_rows = float(defined.mean(0).var()) * again
    of_seeds = both = 0.0
    if seeds > 1:
        of_seeds = float(observed.var(ddof=1)) / seeds
        both = max(0.0, float(defined.var(0, ddof=1).mean()) / seeds - of_seeds) * again
    share = max(0.0, of_rows - both)
    components = Components(
        seeds=max(0.0, of_seeds - both) * seeds, rows=share * groups, both=(of_rows - share) * seeds * groups,
        size=(rows or groups) / groups, counted=counted,
    )  # fmt: skip
    return Difference(mean, *components.spread(seeds, groups), seeds, groups, components)


def _unknown(drawn: Floats, groups: int) -> str:
    """Why nothing is known of the error; empty if it is."""
    if not drawn.size:
        return "the answers to single rows are not known"
    if groups < 2:
        return "one group of rows says nothing about others; add rows"
    defined = float((~np.isnan(drawn).any(0)).mean())
    if defined < 0.5:
        return f"the metric is undefined in {1 - defined:.0%} of the draws of rows; add rows"
    return ""
