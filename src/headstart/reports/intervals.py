"""A mean over seeds with its 95 % interval, or the reason why there is none."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import stdtrit

__all__ = ["LEVEL", "ONE_SEED", "SAME", "Estimate", "estimate"]

LEVEL = 0.95

ONE_SEED = "one seed"

SAME = "every seed gave the same value"

_RELATIVE_ROUNDING = 1e-12


@dataclass(frozen=True)
class Estimate:
    """A mean over seeds. `interval` is the half-width of its 95 % interval; unknown values are NaN, with a `reason`."""

    mean: float
    interval: float
    seeds: int
    reason: str = ""

    @property
    def low(self) -> float:
        """Lower end of the interval; NaN if there is none."""
        return self.mean - self.interval

    @property
    def high(self) -> float:
        """Upper end of the interval; NaN if there is none."""
        return self.mean + self.interval


def estimate(values: Sequence[float], *, missing: str = "no value") -> Estimate:
    """Mean of `values` over seeds, with the half-width of the two-sided 95 % interval of Student's t.

    The half-width is t(0.975, n - 1) · s / √n, with s the sample standard deviation (n - 1 in the denominator).
    NaN values do not count. With one seed, or if all seeds agree to the last digit, nothing is known about the spread,
    so the half-width is NaN, not 0. `missing` is the reason given if no value is left.

    >>> round(estimate([1.0, 2.0, 3.0]).interval, 4)
    2.4841
    """
    known = np.asarray(values, dtype=np.float64)
    known = known[~np.isnan(known)]
    count = len(known)
    if count == 0:
        return Estimate(math.nan, math.nan, 0, missing)
    if not np.isfinite(known).all():
        return Estimate(math.nan, math.nan, count, "a value is infinite")
    mean = float(known.mean())
    if count == 1:
        return Estimate(mean, math.nan, 1, ONE_SEED)
    if np.ptp(known) <= _RELATIVE_ROUNDING * np.abs(known).max():
        return Estimate(mean, math.nan, count, SAME)
    quantile = float(stdtrit(count - 1, 0.5 + LEVEL / 2))
    return Estimate(mean, quantile * float(known.std(ddof=1)) / math.sqrt(count), count)
