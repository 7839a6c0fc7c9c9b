"""Pearson-Correlation: the linear agreement of predicted and true numbers."""

import math
import warnings
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from headstart.errors import TaskError
from headstart.tasks.metrics.metric import Metric

__all__ = ["PEARSON_CORRELATION"]

_ROUNDING = 1e-12
"""A sum of squares about the mean that is a smaller share of the plain sum of squares is 0 but for rounding."""


def _pearson(predictions: Sequence[str], references: Sequence[Sequence[str]]) -> float:
    from scipy.stats import pearsonr  # here, so that light commands do not pay for it

    targets = _targets(references)
    found = [_number(prediction) for prediction in predictions]
    if not all(math.isfinite(number) for number in found) or len(set(found)) < 2 or len(set(targets)) < 2:
        return math.nan
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # scipy warns of nearly constant numbers
        return float(pearsonr(targets, found).statistic)


def _parts(predictions: Sequence[str], references: Sequence[Sequence[str]]) -> NDArray[np.float64]:
    """Columns x, y, x², y², xy and whether the prediction is no number; x and y are taken from their means."""
    found = np.array([_number(prediction) for prediction in predictions])
    unread = ~np.isfinite(found)
    x, y = _centred(np.array(_targets(references))), _centred(np.where(unread, 0.0, found))
    return np.stack([x, y, x * x, y * y, x * y, unread.astype(np.float64)], axis=1)


def _whole(sums: NDArray[np.float64], counts: NDArray[np.float64]) -> NDArray[np.float64]:
    x, y, xx, yy, xy, unread = np.moveaxis(sums, -1, 0)
    spread_x, spread_y = xx - x * x / counts, yy - y * y / counts
    defined = (spread_x > _ROUNDING * xx) & (spread_y > _ROUNDING * yy) & (unread == 0)
    scale = np.sqrt(np.where(defined, spread_x * spread_y, 1.0))
    return np.where(defined, np.clip((xy - x * y / counts) / scale, -1.0, 1.0), math.nan)


def _centred(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """`values` less their mean, which the correlation does not depend on and rounding does."""
    return np.asarray(values - values.mean())


def _targets(references: Sequence[Sequence[str]]) -> list[float]:
    targets = [_number(answers[0]) for answers in references]
    for row, (target, answers) in enumerate(zip(targets, references, strict=True), start=1):
        if not math.isfinite(target):
            raise TaskError(
                f"Pearson-Correlation: target {answers[0]!r} of row {row} is not a number; correct the task"
            )
    return targets


def _number(text: str) -> float:
    try:
        return float(text.strip())
    except ValueError:
        return math.nan


PEARSON_CORRELATION = Metric("Pearson-Correlation", _pearson, _parts, _whole, least=-1.0, most=1.0, counted=False)
"""Pearson's r of the predictions and targets (the first reference), read as numbers. In -1 … 1.

NaN when undefined: fewer than two different numbers on either side, or, as in CrossFit, a prediction that is no number.
"""
