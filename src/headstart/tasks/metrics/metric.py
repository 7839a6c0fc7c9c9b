"""What a metric is: a name and a formula over predictions and their acceptable answers."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import fmean

import numpy as np
from numpy.typing import NDArray

from headstart.errors import TaskError

__all__ = ["Formula", "Metric", "Parts", "Whole", "mean_of_rows"]

Formula = Callable[[Sequence[str], Sequence[Sequence[str]]], float]

Parts = Callable[[Sequence[str], Sequence[Sequence[str]]], NDArray[np.float64]]
"""Predictions and references to an array (rows, K) of what each row adds to the metric."""

Whole = Callable[[NDArray[np.float64], NDArray[np.float64]], NDArray[np.float64]]
"""Sums (…, K) of the parts over any rows, and the numbers of these rows (…), to the metric (…); NaN: undefined."""


@dataclass(frozen=True)
class Metric:
    """A measure of predictions against references; higher is better.

    Attributes:
        name: CrossFit's name for it, as the user types it.
        formula: what `compute` calls after it has checked the arguments.
        parts: what each row adds, so that the metric of any resampled rows is a function of sums; `None` if unknown.
        least: the smallest value that it can have; `None` if unknown.
        most: the largest; `None` if unknown.
        whole: that function. With `weights` (draws, rows), how often each draw holds each row, the metric of every
            draw is `whole(weights @ parts(predictions, references), weights.sum(1))`.
        counted: whether it counts rows as right or wrong, or as something between, unlike a correlation of numbers.
        version: raised by hand when it gives other scores than before, so that stored ones are computed again.
    """

    name: str
    formula: Formula
    parts: Parts | None = None
    whole: Whole | None = None
    version: int = 1
    least: float | None = None
    most: float | None = None
    counted: bool = True

    def compute(self, predictions: Sequence[str], references: Sequence[Sequence[str]]) -> float:
        """The score of `predictions`; `references[i]` are the acceptable answers to the i-th, at least one.

        NaN if the metric is undefined for them. Raises `TaskError` if there are no predictions, if lengths differ, or
        if a row has no reference: none of these is a score of 0.
        """
        if len(predictions) != len(references):
            raise TaskError(
                f"{self.name}: {len(predictions)} predictions for {len(references)} rows; give one prediction a row"
            )
        if not predictions:
            raise TaskError(f"{self.name}: no predictions to score; choose a split that has rows")
        for number, answers in enumerate(references, start=1):
            if not answers:
                raise TaskError(f"{self.name}: row {number} has no reference; give it at least one answer")
        return float(self.formula(predictions, references))


def mean_of_rows(name: str, scores: Callable[[Sequence[str], Sequence[Sequence[str]]], Sequence[float]]) -> Metric:
    """The metric that is the plain mean of `scores`, one in 0 … 1 for each row."""

    def formula(predictions: Sequence[str], references: Sequence[Sequence[str]]) -> float:
        return fmean(scores(predictions, references))

    def parts(predictions: Sequence[str], references: Sequence[Sequence[str]]) -> NDArray[np.float64]:
        return np.array(scores(predictions, references), dtype=np.float64).reshape(-1, 1)

    return Metric(name, formula, parts, _mean, least=0.0, most=1.0)


def _mean(sums: NDArray[np.float64], counts: NDArray[np.float64]) -> NDArray[np.float64]:
    return sums[..., 0] / counts
