"""ACC: the share of predictions that are exactly an acceptable answer."""

from collections.abc import Sequence

from headstart.tasks.metrics.metric import mean_of_rows

__all__ = ["ACC"]


def _right(predictions: Sequence[str], references: Sequence[Sequence[str]]) -> list[float]:
    return [
        float(prediction.strip() in {answer.strip() for answer in answers})
        for prediction, answers in zip(predictions, references, strict=True)
    ]


ACC = mean_of_rows("ACC", _right)
"""Accuracy: the same text as any reference, apart from space around it; case and punctuation count. In 0 … 1."""
