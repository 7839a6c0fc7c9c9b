"""Classification-F1: the plain mean of the classes' F1."""

import warnings
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from headstart.tasks.metrics.metric import Metric

__all__ = ["CLASSIFICATION_F1"]


def _macro_f1(predictions: Sequence[str], references: Sequence[Sequence[str]]) -> float:
    from sklearn.metrics import f1_score  # here, so that light commands do not pay for it

    targets = [answers[0].strip() for answers in references]
    found = [prediction.strip() for prediction in predictions]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # scikit-learn takes many different answers for a mistake
        return float(f1_score(targets, found, average="macro", zero_division=0.0))


def _parts(predictions: Sequence[str], references: Sequence[Sequence[str]]) -> NDArray[np.float64]:
    """Two columns for each class: twice the row's true positives, and how often target and prediction name it."""
    targets = [answers[0].strip() for answers in references]
    found = [prediction.strip() for prediction in predictions]
    columns = {name: 2 * index for index, name in enumerate(dict.fromkeys([*targets, *found]))}
    parts = np.zeros((len(found), 2 * len(columns)))
    for row, (target, prediction) in enumerate(zip(targets, found, strict=True)):
        parts[row, columns[target]] = 2.0 * (target == prediction)
        parts[row, columns[target] + 1] += 1
        parts[row, columns[prediction] + 1] += 1
    return parts


def _whole(sums: NDArray[np.float64], counts: NDArray[np.float64]) -> NDArray[np.float64]:
    """The mean F1 of the classes that occur."""
    del counts
    right, mentions = sums[..., 0::2], sums[..., 1::2]
    occurs = mentions > 0
    scores = np.divide(right, mentions, out=np.zeros_like(right), where=occurs)
    return np.asarray(scores.sum(-1) / occurs.sum(-1))


CLASSIFICATION_F1 = Metric("Classification-F1", _macro_f1, _parts, _whole, least=0.0, most=1.0)
"""Macro F1 over every text that occurs as a target (the first reference) or as a prediction. In 0 … 1.

As in CrossFit, a prediction outside the classes counts as one more class of F1 0: it lowers the mean.
"""
