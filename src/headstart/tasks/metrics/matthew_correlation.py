"""Matthew-Correlation: agreement of classes beyond chance."""

import math
import warnings
from collections.abc import Sequence

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


MATTHEW_CORRELATION = Metric("Matthew-Correlation", _matthews)
"""Matthews' correlation of predictions and targets (the first reference), for any number of classes. In -1 … 1.

NaN when the targets are all one class, since they measure nothing; 0 when only the predictions are, as GLUE and
scikit-learn define it: a model that always answers the same is at chance.
"""
