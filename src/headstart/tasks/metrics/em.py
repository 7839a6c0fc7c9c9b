"""EM: the share of predictions that are an acceptable answer after SQuAD's normalisation."""

from collections.abc import Sequence

from headstart.tasks.metrics.metric import mean_of_rows
from headstart.tasks.metrics.squad import normalize_answer

__all__ = ["EM"]


def _exact(predictions: Sequence[str], references: Sequence[Sequence[str]]) -> list[float]:
    return [
        float(normalize_answer(prediction) in {normalize_answer(answer) for answer in answers})
        for prediction, answers in zip(predictions, references, strict=True)
    ]


EM = mean_of_rows("EM", _exact)
"""Exact match with any reference; case, punctuation, articles and extra space do not count. In 0 … 1."""
