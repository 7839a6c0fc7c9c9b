"""The scores of a comparison, seed by seed, and what they would have been on other rows."""

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TypeVar
from weakref import WeakKeyDictionary

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from headstart.comparing.comparison import Comparison
from headstart.errors import CardError
from headstart.statistics.resampling import group_numbers, resampled, resampled_lists
from headstart.tasks import METRICS, Metric

__all__ = ["Made", "Sample", "Samples", "made_of", "main_metric", "samples", "seed_scores"]

Floats = NDArray[np.float64]
Key = tuple[str, str]


def main_metric(comparison: Comparison) -> str:
    """The metric that a report is about: the task's own if it was measured, else the only one.

    Raises `CardError` if several were measured and none is the task's.
    """
    measured = list(dict.fromkeys(comparison.scores["metric"]))
    if comparison.task.metric in measured or not measured:
        return comparison.task.metric
    if len(measured) == 1:
        return str(measured[0])
    raise CardError(
        f"task '{comparison.task.name}' has the metric '{comparison.task.metric}', which was not measured "
        f"(measured: {', '.join(map(str, measured))}); name one of these in the task card"
    )


def seed_scores(comparison: Comparison) -> pd.DataFrame:
    """Test scores of the main metric: method, seed, stage, score, reason; in the methods' order."""
    scores = comparison.scores
    kept = scores[(scores["split"] == "test") & (scores["metric"] == main_metric(comparison))]
    kept = kept.assign(score=kept["score"].astype("float64"), reason=kept["reason"].fillna("").astype(str))
    order = {method: index for index, method in enumerate(comparison.methods)}
    kept = kept.sort_values(["stage", "seed"], kind="stable")
    kept = kept.sort_values("method", key=lambda names: names.map(order), kind="stable")
    return kept[["method", "seed", "stage", "score", "reason"]].reset_index(drop=True)


@dataclass(frozen=True, eq=False)
class Sample:
    """One method at one stage: by seed, its `score`, and `drawn`, its score in every draw of rows.

    `drawn` is empty where the answers to single rows are not known. `reasons`: why a seed has no score.
    """

    score: Mapping[int, float]
    drawn: Mapping[int, Floats]
    reasons: Mapping[int, str]


@dataclass(frozen=True, eq=False)
class Samples:
    """All samples of a comparison by (stage, method), scored on the same draws of `groups` groups of its `rows` rows.

    `problem`: why no rows could be drawn, else empty; `counted`: as in `Metric`.
    """

    of: Mapping[Key, Sample]
    rows: int
    groups: int
    problem: str = ""
    counted: bool = True


T = TypeVar("T")
Made = WeakKeyDictionary[Comparison, tuple[str, T]]
_MADE: Made[Samples] = WeakKeyDictionary()
"""A comparison may hold all its tuned modules, so that it is not to be kept for the sake of its samples."""


def samples(comparison: Comparison) -> Samples:
    """Draw the test rows of a comparison again, and score all answers on every draw; once for each comparison."""
    return made_of(comparison, _MADE, _samples)


def made_of(comparison: Comparison, made: Made[T], make: Callable[[Comparison], T]) -> T:
    """What `make` makes of a comparison; it is made anew if the comparison's tables were changed in place."""
    state = comparison.state()
    if comparison not in made or made[comparison][0] != state:
        made[comparison] = (state, make(comparison))
    return made[comparison][1]


def _samples(comparison: Comparison) -> Samples:
    metric, rows = main_metric(comparison), len(comparison.examples)
    problem, drawn, groups = "", {}, 0
    if comparison.answers.empty:
        problem = "the record holds no answers to single rows; compare again to have them"
    elif metric not in METRICS:
        problem = f"metric '{metric}' is not installed; install the package that brings it"
    else:
        numbers = group_numbers([str(group) for group in comparison.examples.sort_values("row")["group"]])
        groups, drawn = int(numbers.max()) + 1, _drawn(comparison, metric, numbers)
    found = {}
    for key, own in seed_scores(comparison).groupby(["stage", "method"], sort=False):
        stage, method = str(key[0]), str(key[1])
        by_seed = {int(row["seed"]): row for row in own.to_dict("records")}
        score = {seed: float(row["score"]) for seed, row in by_seed.items() if not math.isnan(row["score"])}
        reasons = {seed: str(row["reason"]) for seed, row in by_seed.items() if seed not in score}
        held = {seed: drawn[stage, method, seed] for seed in score if (stage, method, seed) in drawn}
        found[stage, method] = Sample(score, held, reasons)
    counted = metric not in METRICS or METRICS[metric].counted
    return Samples(found, rows, groups, problem, counted)


def _drawn(comparison: Comparison, metric: str, groups: NDArray[np.int64]) -> dict[tuple[str, str, int], Floats]:
    """The scores in every draw, by (stage, method, seed). Equal answers are scored once."""
    measure = METRICS[metric]
    examples = comparison.examples.sort_values("row")
    references = [tuple(json.loads(text)) for text in examples["references"]]
    said: dict[tuple[str, str, int], tuple[str, ...]] = {}
    for (stage, method, seed), own in comparison.answers.groupby(["stage", "method", "seed"], sort=False):
        texts = own.set_index("row")["prediction"].reindex(examples["row"])
        if texts.notna().all():
            said[str(stage), str(method), int(str(seed))] = tuple(map(str, texts))
    unlike: list[Sequence[str]] = list(dict.fromkeys(said.values()))
    if not unlike:
        return {}
    if measure.parts is not None and measure.whole is not None:
        scores = resampled([measure.parts(each, references) for each in unlike], measure.whole, groups)
    else:
        scores = resampled_lists([partial(_anew, measure, each, references) for each in unlike], groups)
    numbered = {each: index for index, each in enumerate(unlike)}
    return {key: scores[numbered[each]] for key, each in said.items()}


def _anew(
    metric: Metric, predictions: Sequence[str], references: Sequence[Sequence[str]], rows: Sequence[int]
) -> float:
    return metric.compute([predictions[row] for row in rows], [references[row] for row in rows])
