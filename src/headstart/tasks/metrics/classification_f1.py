"""Classification-F1: the plain mean of the classes' F1."""

import warnings
from collections.abc import Sequence

from headstart.tasks.metrics.metric import Metric

__all__ = ["CLASSIFICATION_F1"]


def _macro_f1(predictions: Sequence[str], references: Sequence[Sequence[str]]) -> float:
    from sklearn.metrics import f1_score  # here, so that light commands do not pay for it

    targets = [answers[0].strip() for answers in references]
    found = [prediction.strip() for prediction in predictions]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # scikit-learn takes many different answers for a mistake
        return float(f1_score(targets, found, average="macro", zero_division=0.0))


CLASSIFICATION_F1 = Metric("Classification-F1", _macro_f1)
"""Macro F1 over every text that occurs as a target (the first reference) or as a prediction. In 0 … 1.

As in CrossFit, a prediction outside the classes counts as one more class of F1 0: it lowers the mean.
"""
