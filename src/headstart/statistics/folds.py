"""What it adds to a difference's error that each fold of a cross-validation is a tuning of its own."""

import math
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from headstart.statistics.differences import Components, Difference

__all__ = ["FoldedComponents", "over_folds", "tunings_share"]

UNSTEADY = 25.0
"""How many times the median variance over folds a method may have and still be taken for one like the others."""

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class FoldedComponents(Components):
    """Components with the variance that the folds' tunings add to the mean, which more rows do not lessen.

    `tunings`: that variance; `tunings_df`: its degrees of freedom.
    """

    tunings: float = 0.0
    tunings_df: float = 1.0

    def spread(self, seeds: int, groups: int) -> tuple[float, float]:
        """The standard error with what the tunings add, and its degrees of freedom after Satterthwaite (1946)."""
        error, df = super().spread(seeds, groups)
        variance = error**2 + self.tunings
        return math.sqrt(variance), variance**2 / (error**4 / df + self.tunings**2 / self.tunings_df)


def over_folds(found: Difference, pair: Floats, others: Floats | None = None) -> Difference:
    """The same difference, with an error over other tunings too, not over other rows only.

    What a tuning adds to all losses of its fold is seen in the means of methods by fold: where they are not the sum of
    a method's level and a fold's difficulty. The variance of what is left over is estimated from all methods, because
    two methods on four folds would leave 3 degrees of freedom; so tunings are taken to vary as much from each method.
    Another method that varies far more than most (see `UNSTEADY`), such as one that diverged in one fold, has no part
    in it: it would hide what these two are. Of the variance that is found, what the rows explain is taken off.

    Two folds' tunings have most of their training rows in common. So their mean varies more than that of as many
    independent ones, and no estimate from the folds alone can know how much (Bengio & Grandvalet, 2004). In place of
    1/K of a tuning's variance, 1/K + 1/(K − 1) is taken, the correction of Nadeau & Bengio (2003) for K folds.

    Args:
        found: over rows.
        pair: means of the two methods that differ, by fold (2, K).
        others: means of further methods (n, K); equal lines count once.
    """
    means = np.unique(_steady(pair, pair[:0] if others is None else others), axis=0)
    methods, folds = means.shape
    if folds < 2 or methods < 2 or math.isnan(found.error):
        return found
    left = means - means.mean(0) - means.mean(1, keepdims=True) + means.mean()
    df = (methods - 1) * (folds - 1)
    seen = 2 * float((left**2).sum()) / df / folds
    tunings = max(0.0, seen - found.error**2) * (1 + folds / (folds - 1))
    components = FoldedComponents(**vars(found.components), tunings=tunings, tunings_df=df)
    error, own = components.spread(found.seeds, found.groups)
    return replace(found, error=error, df=own, components=components)


def tunings_share(found: Difference) -> float:
    """The share of a difference's variance that the tunings add; 0 where nothing is known of them."""
    tunings = found.components.tunings if isinstance(found.components, FoldedComponents) else 0.0
    return tunings / found.error**2 if found.error > 0 else 0.0


def _steady(pair: Floats, others: Floats) -> Floats:
    """The pair, and those of the others whose means vary over folds about as those of most methods do."""
    means = np.concatenate([pair, others])
    varies = (means - np.median(means, axis=0)).var(axis=1)
    steady = varies <= UNSTEADY * np.median(varies)
    return np.concatenate([pair, others[steady[len(pair) :]]])
