"""What a module is worth nothing without beating: a guess, and always the same answer."""

import math
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np

from headstart.tasks.example import Example
from headstart.tasks.metrics import METRICS, Metric
from headstart.tasks.task import Task

__all__ = ["chance", "majority"]


def chance(examples: Sequence[Example], metric: str) -> dict[str, Any]:
    """The score that a uniform guess among each row's options is expected to have, as a row of baselines.

    Exact for a mean over rows. Of other metrics it is the score of the expected sums, which is where the score of a
    guess goes as rows become many.
    """
    if not all(example.options for example in examples):
        return _baseline("chance", math.nan, "answers are open: there are no options to guess among")
    measure = METRICS[metric]
    if measure.parts is None or measure.whole is None:
        return _baseline("chance", math.nan, f"{metric} says nothing of what a row adds to it")
    listed = [tuple(dict.fromkeys(example.options or ())) for example in examples]
    guesses = [option for options in listed for option in options]
    references = [example.outputs for example, options in zip(examples, listed, strict=True) for _ in options]
    weights = np.array([1 / len(options) for options in listed for _ in options])
    score = float(measure.whole(weights @ measure.parts(guesses, references), weights.sum()))
    score = round(score, 12)  # sums of thirds leave 7e-17 where the score is 0
    counts = sorted({len(options) for options in listed})
    among = f"{counts[0]}" if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"
    return _baseline("chance", score, _undefined(measure, score) or f"a uniform guess among {among} options")


def majority(task: Task, draws: Sequence[Task]) -> dict[str, Any]:
    """The score of always giving the most frequent answer of the drawn training rows, as a row of baselines.

    Where draws hold as many rows of each class, the whole training split says which class is the most frequent.
    """
    drawn, all_rows = (Counter(row.target for row in rows) for rows in (_drawn(draws), task.train))
    if not drawn:
        return _baseline("majority", math.nan, "there are no training rows")
    answer = max(drawn, key=lambda target: (drawn[target], all_rows[target]))
    measure = METRICS[task.card.metric]
    score = measure.compute([answer] * len(task.test), [row.outputs for row in task.test])
    if not math.isnan(score) and max(drawn[answer], all_rows[answer]) < 2:
        return _baseline("majority", math.nan, "no answer of the training rows is given twice")
    said = f"always {answer!r}, the most frequent answer of the training rows"
    return _baseline("majority", score, _undefined(measure, score) or said)


def _drawn(draws: Sequence[Task]) -> list[Example]:
    return [row for draw in draws for row in draw.train]


def _undefined(metric: Metric, score: float) -> str:
    return f"{metric.name} is undefined for such answers" if math.isnan(score) else ""


def _baseline(name: str, score: float, note: str) -> dict[str, Any]:
    return {"name": name, "score": score, "note": note}
