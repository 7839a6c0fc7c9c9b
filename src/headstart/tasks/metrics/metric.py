"""What a metric is: a name and a formula over predictions and their acceptable answers."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from headstart.errors import TaskError

__all__ = ["Formula", "Metric"]

Formula = Callable[[Sequence[str], Sequence[Sequence[str]]], float]


@dataclass(frozen=True)
class Metric:
    """A measure of predictions against references; higher is better.

    Attributes:
        name: CrossFit's name for it, as the user types it.
        formula: what `compute` calls after it has checked the arguments.
    """

    name: str
    formula: Formula

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
