"""Whether a start is used: every method's answers to the held-out rows, compared in pairs, and one rule."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from headstart.comparing.comparison import SCRATCH
from headstart.comparing.decision import CONTROL
from headstart.errors import SettingError
from headstart.evaluating.loss_unit import NATS
from headstart.fitting.sentences import Grounds, remedy, sentence
from headstart.showing import line, plural
from headstart.statistics.differences import Difference, difference
from headstart.statistics.folds import over_folds, tunings_share
from headstart.statistics.holm import holm
from headstart.statistics.resampling import group_numbers, resampled, resampled_lists
from headstart.tasks import METRICS, Example

__all__ = ["ALPHA", "CONTRASTS", "TABLE", "Held", "Verdict", "decide_start"]

ALPHA = 0.1
"""The one-sided level of each test, over all starts together.

A start has to pass two of them, against scratch and against the random module, so that one that is no better is used
more rarely: docs/fit.md has the simulations."""

TABLE = ("method", "loss", "score", "steps", "seconds", "reason")
CONTRASTS = (
    "method", "other", "measure", "difference", "low", "high", "p", "adjusted", "outcome", "smallest", "rows_needed",
    "tunings", "reason",
)  # fmt: skip

Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Held:
    """What one method answered to the held-out rows: `predictions`, and `losses` (`Evaluation.answer_losses`).

    `steps`: the step of the best state, `seconds`: the time of tuning, each a mean over folds. `reason`: why there is
    no answer; then the others are empty or NaN.
    """

    losses: Floats
    predictions: tuple[str, ...]
    steps: float = math.nan
    seconds: float = math.nan
    reason: str = ""


@dataclass(frozen=True, eq=False)
class Verdict:
    """Whether a start is used, and why.

    Attributes:
        choice: "use" a start, or "abstain" and tune from scratch.
        method: what to tune from: the start's name, else "scratch".
        leader: the start that is used, else the one with the lowest loss on the held-out rows; "" if none has a loss.
        gain: the loss of scratch less that of the leader, in `unit`, with `low` and `high` of its 95 % interval.
        rows: how many rows were held out in all; `folds`: in how many tunings of each method.
        unit: of losses: "nats a row", or for a regression "of squared error a row".
        metric: the task's metric, which `table` and `contrasts` hold beside the loss.
        table: a line per method: its mean loss, its score, the mean step of the best state, the seconds of a tuning,
            and the reason if it has none.
        contrasts: every start against scratch and against the random module, by "loss" and by the metric: the
            `difference` in the start's favour with its 95 % interval, `p` (one-sided, of the loss only), `adjusted`
            after Holm's correction, the `outcome` ("win", of the loss after the correction, "loss", before it, or
            "undecided"), the `smallest` gain that so many rows show in 80 of 100 cases among so many starts, and how
            many rows would show this gain as often (`rows_needed`; NaN for a win, and if not up to 100,000). `tunings`:
            the share of the error's variance that other tunings would have, which more rows do not lessen.
        sentence: all of it in plain English.
        remedy: what would help; "" where a start is used.
    """

    choice: Literal["use", "abstain"]
    method: str
    leader: str
    gain: float
    low: float
    high: float
    rows: int
    folds: int
    metric: str
    table: pd.DataFrame
    contrasts: pd.DataFrame
    sentence: str
    remedy: str
    unit: str = NATS

    def __repr__(self) -> str:
        gain = "" if math.isnan(self.gain) else f"gain {self.gain:.3g} {self.unit} ({self.low:.3g} to {self.high:.3g})"
        held = f"{plural(self.rows, 'held-out row')} in {plural(self.folds, 'fold')}"
        return line(type(self).__name__, f"{self.choice}: {self.method}", gain, held)


def decide_start(
    answers: Mapping[str, Held],
    examples: Sequence[Example],
    *,
    metric: str,
    folds: Sequence[int] | None = None,
    unit: str = NATS,
    available: int | None = None,
    most: int | None = None,
) -> Verdict:
    """The verdict on starts, from every method's answers to the same held-out rows.

    A start is used if its mean loss is below that of scratch and below that of the random module (where there is one),
    each with a one-sided p of at most `ALPHA` after Holm's correction for the number of starts, and if its score is not
    below that of scratch with as much confidence. The p of a loss is over rows and, from two folds on, over tunings
    (see `over_folds`); that of a score is over rows only. Of several starts, the one with the lowest loss is used. In
    doubt none is: a start that is not better costs nothing to tune from, but whoever reads that it was used will
    believe that the hub holds what the task needs.

    Args:
        answers: by method; "scratch" must be among them, "random" should be.
        examples: the held-out rows, in the order of the answers.
        metric: a name in `METRICS`.
        folds: the fold of every row: rows of one fold were answered by one tuning of each method. `None`: one tuning
            answered all rows, and nothing is known of others.
        unit: of the losses, for the sentences.
        available: how many rows could have been answered; `None`: no more than were.
        most: how many rows are answered at most, unless more are asked for; `None`: all.

    Raises:
        SettingError: "scratch" is not among the answers, or nothing else than scratch and the random module.
    """
    starts = [name for name in answers if name not in (SCRATCH, CONTROL)]
    if SCRATCH not in answers or not starts:
        raise SettingError("a start is compared with scratch; give the answers of 'scratch' and of one start or more")
    level = ALPHA / len(starts)
    drawn = _Drawn(answers, examples, metric, [0] * len(examples) if folds is None else folds, level=level)
    rivals = [name for name in (SCRATCH, CONTROL) if name in answers]
    rows = [drawn.row(start, rival, "loss") for start in starts for rival in rivals]
    adjusted = _adjust(rows, starts)
    rows += [drawn.row(start, rival, metric) for start in starts for rival in rivals]
    contrasts = pd.DataFrame(rows, columns=list(CONTRASTS))
    by = {(row["method"], row["other"], row["measure"]): row for row in contrasts.to_dict("records")}
    told, used = _told(drawn, by, adjusted)
    gain, low, high = (math.nan,) * 3
    if told:
        gain, low, high = (float(by[told, SCRATCH, "loss"][name]) for name in ("difference", "low", "high"))
    scores = (drawn.value(told, metric), drawn.value(SCRATCH, metric))
    shown = bool(told) and adjusted[told] <= ALPHA
    grounds = Grounds(
        by, told, shown, used, metric, scores, len(examples), drawn.folds,
        len(examples) if available is None else available, most, unit,
    )  # fmt: skip
    return Verdict(
        "use" if used else "abstain", told if used else SCRATCH, told, gain, low, high, len(examples), drawn.folds,
        metric, _table(drawn), contrasts, sentence(grounds), remedy(grounds), unit,
    )  # fmt: skip


def _adjust(rows: Sequence[dict[str, Any]], starts: Sequence[str]) -> dict[str, float]:
    """Correct the p of every line of the loss, and so its outcome; by start, the corrected p of its worse line.

    Holm's correction is for the number of starts, each with the larger of its two p. The other one is corrected as
    that is, so that a start is shown to be better where both of its lines are wins, and only there.
    """
    of = {start: [row for row in rows if row["method"] == start] for start in starts}
    worst = {start: max((row["p"] for row in own), key=_nan_last) for start, own in of.items()}
    adjusted = dict(zip(starts, holm(list(worst.values())), strict=True))
    order = sorted((start for start in starts if not math.isnan(worst[start])), key=worst.__getitem__)
    before = dict(zip(order, [0.0, *(adjusted[start] for start in order)], strict=False))
    for start, own in of.items():
        times = len(order) - order.index(start) if start in order else len(starts)
        for row in own:
            row["adjusted"] = math.nan
            if not math.isnan(row["p"]):
                row["adjusted"] = max(before.get(start, 0.0), min(1.0, times * row["p"]))
            if row["adjusted"] <= ALPHA:
                row |= {"outcome": "win", "rows_needed": math.nan}
    return adjusted


def _told(
    drawn: "_Drawn", by: Mapping[tuple[str, str, str], Mapping[Any, Any]], adjusted: Mapping[str, float]
) -> tuple[str, bool]:
    """The start that is used, or else the one with the lowest loss, and whether it is used."""
    known = [start for start in adjusted if not math.isnan(drawn.value(start, "loss"))]
    usable = [
        start
        for start in known
        if adjusted[start] <= ALPHA and str(by[start, SCRATCH, drawn.metric]["outcome"]) != "loss"
    ]
    return min(usable or known, key=lambda start: drawn.value(start, "loss"), default=""), bool(usable)


class _Drawn:
    """Mean losses and scores of all methods on the held-out rows, and on rows drawn from them again."""

    def __init__(
        self,
        answers: Mapping[str, Held],
        examples: Sequence[Example],
        metric: str,
        folds: Sequence[int],
        *,
        level: float,
    ) -> None:
        self.answers, self.metric, self.level = answers, metric, level
        fold_of = np.unique(np.array(folds), return_inverse=True)[1]
        self.folds = int(fold_of.max()) + 1
        self.groups = group_numbers([example.group or "" for example in examples])
        self.references = [example.outputs for example in examples]
        known = {name: held for name, held in answers.items() if not held.reason and np.isfinite(held.losses).all()}
        self.of: dict[str, dict[str, tuple[float, Floats]]] = {"loss": {}, metric: {}}
        # One row more or less may change a score by 1, and a mean loss by one standard deviation of a row's loss (1 nat
        # at most), so that the unit of a squared error decides nothing.
        self.units = {"loss": 1.0, metric: 1.0}
        if not known:
            return
        self.units["loss"] = min(float(np.concatenate([held.losses for held in known.values()]).std()), 1.0) or 1.0
        losses = [held.losses.reshape(-1, 1) for held in known.values()]
        sizes = np.bincount(fold_of)
        self.fold_means = {name: np.bincount(fold_of, held.losses) / sizes for name, held in known.items()}
        again = resampled(losses, lambda sums, counts: sums[..., 0] / counts, self.groups)
        for name, held, own in zip(known, known.values(), again, strict=True):
            self.of["loss"][name] = float(held.losses.mean()), own
        for name, held, own in zip(known, known.values(), self._scores(list(known.values())), strict=True):
            score = METRICS[metric].compute(list(held.predictions), self.references)
            if math.isfinite(score):
                self.of[metric][name] = score, own

    def _scores(self, known: Sequence[Held]) -> Floats:
        measure = METRICS[self.metric]
        if measure.parts is not None and measure.whole is not None:
            parts = [measure.parts(held.predictions, self.references) for held in known]
            return resampled(parts, measure.whole, self.groups)
        return resampled_lists([partial(_anew, self.metric, held, self.references) for held in known], self.groups)

    def value(self, method: str, measure: str) -> float:
        """The mean loss or the score of a method; NaN if it has none."""
        return self.of[measure].get(method, (math.nan,))[0]

    def gain(self, method: str, other: str, measure: str) -> Difference | None:
        """How much better a method is than another one, in `units`."""
        own = self.of[measure]
        if method not in own or other not in own:
            return None
        sign = (-1.0 if measure == "loss" else 1.0) / self.units[measure]
        seen, again = (sign * (own[method][at] - own[other][at]) for at in (0, 1))
        count = int(self.groups.max()) + 1
        counted = measure != "loss" and METRICS[measure].counted
        found = difference(np.array([seen]), np.array([again]), groups=count, rows=len(self.groups), counted=counted)
        if measure != "loss":
            return found
        means = {name: own / self.units["loss"] for name, own in self.fold_means.items()}
        pair = [means.pop(name) for name in (method, other)]
        return over_folds(found, np.array(pair), np.array([*means.values()]).reshape(-1, len(pair[0])))

    def row(self, method: str, other: str, measure: str) -> dict[str, Any]:
        """A line of contrasts; only those of the loss have a p, because only they decide."""
        told: dict[str, Any] = {"method": method, "other": other, "measure": measure, "adjusted": math.nan}
        found = self.gain(method, other, measure)
        if found is None:
            missing = next((name for name in (method, other) if name not in self.of[measure]), method)
            reason = self.answers[missing].reason or f"{missing} has no {measure} on these rows"
            numbers = ("difference", "low", "high", "p", "smallest", "rows_needed", "tunings")
            nothing = dict.fromkeys(numbers, math.nan)
            return told | nothing | {"outcome": "undecided", "reason": reason}
        unit = self.units[measure]
        low, high = (unit * bound for bound in found.interval())
        better = _one_sided(found)
        # Of a loss, a win is one after the correction for several starts, which is made once all are known.
        won = better <= ALPHA and measure != "loss"
        needed = math.nan if won or found.mean <= 0 else found.groups_needed(2 * self.level)
        return told | {
            "difference": unit * found.mean, "low": low, "high": high, "p": better if measure == "loss" else math.nan,
            "outcome": "win" if won else "loss" if better >= 1 - ALPHA else "undecided",
            "smallest": unit * found.smallest(2 * self.level), "reason": found.reason, "tunings": tunings_share(found),
            "rows_needed": needed if math.isnan(needed) else math.ceil(needed * len(self.groups) / found.groups),
        }  # fmt: skip


def _table(drawn: _Drawn) -> pd.DataFrame:
    rows = [
        {"method": name, "loss": drawn.value(name, "loss"), "score": drawn.value(name, drawn.metric),
         "steps": held.steps, "seconds": held.seconds, "reason": held.reason}
        for name, held in drawn.answers.items()
    ]  # fmt: skip
    return pd.DataFrame(rows, columns=list(TABLE))


def _one_sided(found: Difference) -> float:
    """The p-value for no gain against a gain."""
    p = found.p
    return p if math.isnan(p) else p / 2 if found.mean > 0 else 1 - p / 2


def _nan_last(p: float) -> float:
    return math.inf if math.isnan(p) else p


def _anew(metric: str, held: Held, references: Sequence[Sequence[str]], rows: Sequence[int]) -> float:
    return METRICS[metric].compute([held.predictions[row] for row in rows], [references[row] for row in rows])
