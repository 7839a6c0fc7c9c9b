"""Matthew-Correlation: agreement of classes beyond chance."""

import math
import warnings
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from headstart.tasks.metrics.metric import Metric

__all__ = ["MATTHEW_CORRELATION"]


def _matthews(predictions: Sequence[str], references: Sequence[Sequence[str]]) -> float:
    from sklearn.metrics import matthews_corrcoef  # here, so that light commands do not pay for it

    targets = [answers[0].strip() for answers in references]
    if len(set(targets)) < 2:
        return math.nan
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # scikit-learn takes many different answers for a mistake
        return float(matthews_corrcoef(targets, [prediction.strip() for prediction in predictions]))


def _parts(predictions: Sequence[str], references: Sequence[Sequence[str]]) -> NDArray[np.float64]:
    """Whether the row is right; then, for each class, whether it is the target and whether it is the prediction."""
    targets = [answers[0].strip() for answers in references]
    found = [prediction.strip() for prediction in predictions]
    columns = {name: 2 * index + 1 for index, name in enumerate(dict.fromkeys([*targets, *found]))}
    parts = np.zeros((len(found), 2 * len(columns) + 1))
    for row, (target, prediction) in enumerate(zip(targets, found, strict=True)):
        parts[row, 0] = target == prediction
        parts[row, columns[target]] = 1
        parts[row, columns[prediction] + 1] = 1
    return parts


def _whole(sums: NDArray[np.float64], counts: NDArray[np.float64]) -> NDArray[np.float64]:
    """R_K of Gorodkin (2004) from the sums, which are whole numbers of rows."""
    right, wanted, said = sums[..., 0], sums[..., 1::2], sums[..., 2::2]
    free = [counts**2 - (each**2).sum(-1) for each in (wanted, said)]
    agreement = right * counts - (wanted * said).sum(-1)
    spread = np.sqrt(free[0] * free[1])
    score = np.divide(agreement, spread, out=np.zeros_like(agreement), where=spread > 0)
    return np.where(free[0] > 0, score, math.nan)


MATTHEW_CORRELATION = Metric("Matthew-Correlation", _matthews, _parts, _whole, least=-1.0, most=1.0)
"""Matthews' correlation of predictions and targets (the first reference), for any number of classes. In -1 … 1.

NaN when the targets are all one class, since they measure nothing; 0 when only the predictions are, as GLUE and
scikit-learn define it: a model that always answers the same is at chance.
"""
