"""Pearson-Correlation: the linear agreement of predicted and true numbers."""

import math
import warnings
from collections.abc import Sequence

from headstart.errors import TaskError
from headstart.tasks.metrics.metric import Metric

__all__ = ["PEARSON_CORRELATION"]


def _pearson(predictions: Sequence[str], references: Sequence[Sequence[str]]) -> float:
    from scipy.stats import pearsonr  # here, so that light commands do not pay for it

    targets = [_number(answers[0]) for answers in references]
    for row, (target, answers) in enumerate(zip(targets, references, strict=True), start=1):
        if not math.isfinite(target):
            raise TaskError(
                f"Pearson-Correlation: target {answers[0]!r} of row {row} is not a number; correct the task"
            )
    found = [_number(prediction) for prediction in predictions]
    if not all(math.isfinite(number) for number in found) or len(set(found)) < 2 or len(set(targets)) < 2:
        return math.nan
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # scipy warns of nearly constant numbers
        return float(pearsonr(targets, found).statistic)


def _number(text: str) -> float:
    try:
        return float(text.strip())
    except ValueError:
        return math.nan


PEARSON_CORRELATION = Metric("Pearson-Correlation", _pearson)
"""Pearson's r of the predictions and targets (the first reference), read as numbers. In -1 … 1.

NaN when undefined: fewer than two different numbers on either side, or, as in CrossFit, a prediction that is no number.
"""
