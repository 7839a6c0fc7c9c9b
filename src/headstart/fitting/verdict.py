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
from headstart.comparing.decision import CONTROL, spoken
from headstart.errors import SettingError
from headstart.statistics.differences import Difference, difference
from headstart.statistics.folds import over_folds
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
    "reason",
)  # fmt: skip

Floats = NDArray[np.float64]
Contrasts = Mapping[tuple[str, str, str], Mapping[Any, Any]]
"""The lines of contrasts by method, other and measure."""


@dataclass(frozen=True, eq=False)
class Held:
    """What one method answered to the held-out rows: `losses` of every row (see `row_losses`), and `predictions`.

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
        leader: the start with the lowest loss on the held-out rows, whether it is used or not; "" if none has a loss.
        gain: the loss of scratch less that of the leader, in nats a row, with `low` and `high` of its 95 % interval.
        rows: how many rows were held out in all; `folds`: in how many tunings of each method.
        metric: the task's metric, which `table` and `contrasts` hold beside the loss.
        table: a line per method: its mean loss, its score, the mean step of the best state, the seconds of a tuning,
            and the reason if it has none.
        contrasts: every start against scratch and against the random module, by "loss" and by the metric: the
            `difference` in the start's favour with its 95 % interval, `p` (one-sided, of the loss only), `adjusted`
            after Holm's correction, the `outcome` ("win", "loss" or "undecided"), the `smallest` gain that so many rows
            show in 80 of 100 cases, and how many rows would show this gain as often (`rows_needed`; NaN if not up to
            100,000).
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


def decide_start(
    answers: Mapping[str, Held], examples: Sequence[Example], *, metric: str, folds: Sequence[int] | None = None
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

    Raises:
        SettingError: "scratch" is not among the answers, or nothing else than scratch and the random module.
    """
    starts = [name for name in answers if name not in (SCRATCH, CONTROL)]
    if SCRATCH not in answers or not starts:
        raise SettingError("a start is compared with scratch; give the answers of 'scratch' and of one start or more")
    drawn = _Drawn(answers, examples, metric, [0] * len(examples) if folds is None else folds)
    rivals = [name for name in (SCRATCH, CONTROL) if name in answers]
    rows = [drawn.row(start, rival, "loss") for start in starts for rival in rivals]
    worst = [max((row["p"] for row in rows if row["method"] == start), key=_nan_last) for start in starts]
    adjusted = dict(zip(starts, holm(worst), strict=True))
    for row in rows:
        row["adjusted"] = adjusted[row["method"]]
    rows += [drawn.row(start, rival, metric) for start in starts for rival in rivals]
    contrasts = pd.DataFrame(rows, columns=list(CONTRASTS))
    return _verdict(drawn, contrasts, adjusted)


class _Drawn:
    """Mean losses and scores of all methods on the held-out rows, and on rows drawn from them again."""

    def __init__(
        self, answers: Mapping[str, Held], examples: Sequence[Example], metric: str, folds: Sequence[int]
    ) -> None:
        self.answers, self.metric = answers, metric
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
        self.fold_means = np.array([np.bincount(fold_of, held.losses) / sizes for held in known.values()])
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
        return over_folds(found, self.fold_means / self.units["loss"]) if measure == "loss" else found

    def row(self, method: str, other: str, measure: str) -> dict[str, Any]:
        """A line of contrasts; only those of the loss have a p, because only they decide."""
        told: dict[str, Any] = {"method": method, "other": other, "measure": measure, "adjusted": math.nan}
        found = self.gain(method, other, measure)
        if found is None:
            missing = next((name for name in (method, other) if name not in self.of[measure]), method)
            reason = self.answers[missing].reason or f"{missing} has no {measure} on these rows"
            nothing = dict.fromkeys(("difference", "low", "high", "p", "smallest", "rows_needed"), math.nan)
            return told | nothing | {"outcome": "undecided", "reason": reason}
        unit = self.units[measure]
        low, high = (unit * bound for bound in found.interval())
        better = _one_sided(found)
        needed = math.nan if better <= ALPHA or found.mean <= 0 else found.groups_needed(2 * ALPHA)
        return told | {
            "difference": unit * found.mean, "low": low, "high": high, "p": better if measure == "loss" else math.nan,
            "outcome": "win" if better <= ALPHA else "loss" if better >= 1 - ALPHA else "undecided",
            "smallest": unit * found.smallest(2 * ALPHA), "reason": found.reason,
            "rows_needed": needed if math.isnan(needed) else math.ceil(needed * len(self.groups) / found.groups),
        }  # fmt: skip


def _verdict(drawn: _Drawn, contrasts: pd.DataFrame, adjusted: Mapping[str, float]) -> Verdict:
    """What the contrasts amount to."""
    known = [start for start in adjusted if not math.isnan(drawn.value(start, "loss"))]
    leader = min(known, key=lambda start: drawn.value(start, "loss"), default="")
    by = {(row["method"], row["other"], row["measure"]): row for row in contrasts.to_dict("records")}
    usable = [
        start
        for start in known
        if adjusted[start] <= ALPHA and str(by[start, SCRATCH, drawn.metric]["outcome"]) != "loss"
    ]
    best = min(usable, key=lambda start: drawn.value(start, "loss"), default="")
    told = best or leader
    gain, low, high = (math.nan,) * 3
    if told:
        gain, low, high = (float(by[told, SCRATCH, "loss"][name]) for name in ("difference", "low", "high"))
    rows = len(drawn.groups)
    sentence = _sentence(drawn, by, told, used=bool(best))
    remedy = "" if best else _remedy(by, leader, rows=rows)
    return Verdict(
        "use" if best else "abstain", best or SCRATCH, told, gain, low, high, rows, drawn.folds, drawn.metric,
        _table(drawn),
        contrasts, sentence, remedy,
    )  # fmt: skip


def _table(drawn: _Drawn) -> pd.DataFrame:
    rows = [
        {"method": name, "loss": drawn.value(name, "loss"), "score": drawn.value(name, drawn.metric),
         "steps": held.steps, "seconds": held.seconds, "reason": held.reason}
        for name, held in drawn.answers.items()
    ]  # fmt: skip
    return pd.DataFrame(rows, columns=list(TABLE))


def _sentence(drawn: _Drawn, by: Contrasts, told: str, *, used: bool) -> str:
    """The decision, the start's gain over scratch, its score, and how it stands to the random module."""
    opening = f"Use {spoken(told)}." if used else "Tune from scratch."
    if not told:
        return f"{opening} No start has a loss on the held-out rows."
    against = by[told, SCRATCH, "loss"]
    size, low, high = (_text(float(against[name])) for name in ("difference", "low", "high"))
    held = f"{len(drawn.groups)} held-out examples" + (f", {drawn.folds} folds" if drawn.folds > 1 else "")
    if used:
        opening += (
            f" Tuned from it, the right answer costs {size} nats a row less than tuned from scratch (95 % interval "
            f"{low} to {high}; {held})"
        )
    else:
        opening += (
            f" No start is shown to be better: the gain of {spoken(told)}, which has the lowest loss, over scratch is "
            f"{size} nats a row (95 % interval {low} to {high}; {held})"
        )
    scores = [drawn.value(name, drawn.metric) for name in (told, SCRATCH)]
    shown = "" if any(map(math.isnan, scores)) else f"; {drawn.metric} is {_text(scores[0])} against {_text(scores[1])}"
    return f"{opening}{shown}. {_control(by, told)}".strip()


def _control(by: Contrasts, told: str) -> str:
    """How a start stands to the random module of the same size."""
    if (told, CONTROL, "loss") not in by:
        return ""
    row = by[told, CONTROL, "loss"]
    if math.isnan(float(row["difference"])):
        return ""
    said = {"win": "better than", "loss": "worse than", "undecided": "not told apart from"}[str(row["outcome"])]
    return f"It is {said} a random module of the same size ({_text(float(row['difference']), signed=True)})."


def _remedy(by: Contrasts, leader: str, *, rows: int) -> str:
    """How many examples would tell."""
    if not leader:
        return "Correct what the reasons name, and fit again."
    own = [by[leader, other, "loss"] for other in (SCRATCH, CONTROL) if (leader, other, "loss") in by]
    needed = [float(row["rows_needed"]) for row in own if str(row["outcome"]) != "win"]
    smallest = max(float(row["smallest"]) for row in own)
    shown = f"These {rows} examples show a gain of {_text(smallest)} nats a row in 80 of 100 cases"
    if any(math.isnan(count) for count in needed) or not needed:
        return f"{shown}, so a larger one would probably have been seen; modules of nearer tasks are what would help."
    return f"{shown}; about {max(needed):,.0f} examples in all would show one like this, in as many cases."


def _one_sided(found: Difference) -> float:
    """The p-value for no gain against a gain."""
    p = found.p
    return p if math.isnan(p) else p / 2 if found.mean > 0 else 1 - p / 2


def _nan_last(p: float) -> float:
    return math.inf if math.isnan(p) else p


def _anew(metric: str, held: Held, references: Sequence[Sequence[str]], rows: Sequence[int]) -> float:
    return METRICS[metric].compute([held.predictions[row] for row in rows], [references[row] for row in rows])


def _text(value: float, *, signed: bool = False) -> str:
    return (f"{value:+.3f}" if signed else f"{value:.3f}").replace("-", "−")
