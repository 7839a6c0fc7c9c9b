"""ACC: the share of predictions that are exactly an acceptable answer."""

from collections.abc import Sequence
from statistics import fmean

from headstart.tasks.metrics.metric import Metric

__all__ = ["ACC"]


def _accuracy(predictions: Sequence[str], references: Sequence[Sequence[str]]) -> float:
    return fmean(
        prediction.strip() in {answer.strip() for answer in answers}
        for prediction, answers in zip(predictions, references, strict=True)
    )


ACC = Metric("ACC", _accuracy)
"""Accuracy: the same text as any reference, apart from space around it; case and punctuation count. In 0 … 1."""
