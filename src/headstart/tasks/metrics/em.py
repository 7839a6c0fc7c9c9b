"""EM: the share of predictions that are an acceptable answer after SQuAD's normalisation."""

from collections.abc import Sequence
from statistics import fmean

from headstart.tasks.metrics.metric import Metric
from headstart.tasks.metrics.squad import normalize_answer

__all__ = ["EM"]


def _exact_match(predictions: Sequence[str], references: Sequence[Sequence[str]]) -> float:
    return fmean(
        normalize_answer(prediction) in {normalize_answer(answer) for answer in answers}
        for prediction, answers in zip(predictions, references, strict=True)
    )


EM = Metric("EM", _exact_match)
"""Exact match with any reference; case, punctuation, articles and extra space do not count. In 0 … 1."""
