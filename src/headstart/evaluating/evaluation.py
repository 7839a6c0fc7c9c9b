"""The result of an evaluation: a score, what stands behind it row by row, and how well each class is recognized."""

import math
from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass, field, replace
from functools import cached_property

import numpy as np
import pandas as pd
from scipy.special import log_softmax, logsumexp, softmax
from sklearn.metrics import confusion_matrix, precision_recall_fscore_support

from headstart.errors import TaskError
from headstart.evaluating.answering import Answers
from headstart.evaluating.loss_unit import loss_unit
from headstart.records import Calibration
from headstart.showing import html_table, line, plural
from headstart.statistics.differences import difference
from headstart.statistics.resampling import group_numbers, resampled, resampled_lists
from headstart.tasks import METRICS, Example

__all__ = ["Evaluation"]

OTHER = "(none of them)"
"""The column of a confusion table for predictions that are no class."""


@dataclass(frozen=True)
class Evaluation:
    """Result of one module on one set of n rows.

    `score`: the metric, as a fraction of 1 (NaN where it is undefined, or where the likelihoods are NaN).
    `loss`: mean cross-entropy per target token, in nats; for a regression, the mean squared error. `decoding`:
    "options", "generate", or "head" on an encoder.

    By row: `losses` in nats, summed over the target's tokens; `options`, the answers to choose from, with `scores`,
    their log-likelihoods in nats without calibration, and `lengths` in tokens. The last three are empty where answers
    are open. `calibration` is what `predictions` and `score` were made with, `uncalibrated` the predictions without.
    `split`: which rows of a task these are, "" if all, or if they are of none.
    """

    metric: str
    score: float
    loss: float
    predictions: tuple[str, ...]
    decoding: str
    _: KW_ONLY
    losses: tuple[float, ...] = field(default=(), repr=False)
    options: tuple[tuple[str, ...], ...] = field(default=(), repr=False)
    scores: tuple[tuple[float, ...], ...] = field(default=(), repr=False)
    lengths: tuple[tuple[int, ...], ...] = field(default=(), repr=False)
    examples: tuple[Example, ...] = field(default=(), repr=False, compare=False)
    calibration: Calibration = field(default_factory=Calibration)
    uncalibrated: tuple[str, ...] = field(default=(), repr=False)
    split: str = field(default="", compare=False)

    def __repr__(self) -> str:
        return line(type(self).__name__, *self._words)

    def _repr_html_(self) -> str:
        title = "; ".join(filter(None, self._words))
        if len(self.examples) != len(self.predictions):
            return f"<p>{title}</p>"
        if not self.classes:
            return html_table(self.frame(), title=title)
        confusion = self.confusion().rename_axis(columns=None).reset_index()
        return html_table(self.per_class(), title=title) + html_table(confusion, title="Rows by target and prediction")

    @property
    def _words(self) -> tuple[str, str, str]:
        how = self.decoding if self.calibration.method == "none" else f"{self.decoding}, {self.calibration.method}"
        rows = f"{plural(len(self.predictions), f'{self.split} row'.strip())}, {how}"
        loss = "" if math.isnan(self.answer_loss) else f"loss {self.answer_loss:.4f} {self.loss_unit}"
        return f"{self.metric} {self.score:.4f}", loss, rows

    @classmethod
    def of(cls, answers: Answers, examples: Sequence[Example], *, metric: str, decoding: str) -> "Evaluation":
        """The evaluation of answers to rows whose targets are known."""
        loss = math.fsum(answers.losses) / answers.tokens if _finite(answers.losses) else math.nan
        score = _score(metric, answers.predictions, examples, loss=loss, scores=answers.scores)
        return cls(
            metric, score, loss, answers.predictions, decoding,
            losses=answers.losses, options=answers.options, scores=answers.scores, lengths=answers.lengths,
            examples=tuple(examples), uncalibrated=answers.predictions,
        )  # fmt: skip

    def answered(self, predictions: Sequence[str], calibration: Calibration) -> "Evaluation":
        """The same evaluation with the predictions that this calibration makes, and their score."""
        score = _score(self.metric, predictions, self.examples, loss=self.loss, scores=self.scores)
        return replace(self, score=score, predictions=tuple(predictions), calibration=calibration)

    @cached_property
    def uncalibrated_score(self) -> float:
        """The score without calibration."""
        return _score(self.metric, self.uncalibrated, self.examples, loss=self.loss, scores=self.scores)

    @cached_property
    def answer_losses(self) -> tuple[float, ...]:
        """−ln p of the right answer to every row, in nats; where several answers are right, of any of them.

        p is the probability that `predict` would give: among the options, as they are calibrated, so that it says
        nothing of how likely the options' format is. Where answers are open or no option is right, it is the loss of
        the target over its tokens; for a regression, the squared error.
        """
        return tuple(map(self._answer_loss, range(len(self.losses))))

    @property
    def answer_loss(self) -> float:
        """The mean of `answer_losses`: the loss by which `fit` chooses a start."""
        losses = self.answer_losses
        return math.fsum(losses) / len(losses) if losses and _finite(losses) else math.nan

    @property
    def loss_unit(self) -> str:
        """What `answer_loss` is measured in: "nats a row", or for a regression "of squared error a row"."""
        return loss_unit(self.metric, self.decoding)

    @cached_property
    def interval(self) -> tuple[float, float]:
        """The 95 % interval of the score over other rows like these, rows of one group together; NaN if not known.

        By the bootstrap of `headstart.statistics`, which a comparison uses for its means; a score over these very
        predictions, so it says nothing of other tunings.
        """
        if len(self.examples) != len(self.predictions) or not math.isfinite(self.score):
            return math.nan, math.nan
        measure, references = METRICS[self.metric], [row.outputs for row in self.examples]
        groups = group_numbers([row.group or "" for row in self.examples])
        if measure.parts is not None and measure.whole is not None:
            drawn = resampled([measure.parts(self.predictions, references)], measure.whole, groups)
        else:
            drawn = resampled_lists([lambda rows: self._rescored(rows, references)], groups)
        found = difference(
            np.array([self.score]), drawn, groups=int(groups.max()) + 1, rows=len(groups), counted=measure.counted
        )
        low, high = found.interval()
        least, most = (math.inf if end is None else end for end in (measure.least, measure.most))
        return (low if math.isinf(least) else max(low, least)), min(high, most)

    def _rescored(self, rows: Sequence[int], references: Sequence[Sequence[str]]) -> float:
        return METRICS[self.metric].compute([self.predictions[row] for row in rows], [references[row] for row in rows])

    def _answer_loss(self, row: int) -> float:
        options = self.options[row] if self.scores else ()
        right = [place for place, option in enumerate(options) if option in self.examples[row].outputs]
        if not right:
            return self.losses[row]
        lengths = self.lengths[row] if self.lengths else ()
        shares = log_softmax(self.calibration.adjusted(self.scores[row], options, lengths))
        return math.nan if math.isnan(shares.sum()) else -float(logsumexp(shares[right]))

    @cached_property
    def classes(self) -> tuple[str, ...]:
        """The answers that every row chooses from; empty if they differ from row to row, or answers are open."""
        listed = self.options or tuple(row.options or () for row in self.examples)
        if not listed or any(set(own) != set(listed[0]) for own in listed):
            return ()
        return tuple(dict.fromkeys(listed[0]))

    def frame(self) -> pd.DataFrame:
        """One line per row: where it was read, input, target, prediction, whether it is right, and two losses in nats.

        Rows stand in the order in which they were read: if all rows of a table are evaluated, in that of the table.
        `where` says which row it is there, counted from 1 (of a CSV, the line; the header is the first).

        `answer_loss` is that of the right answer among the options, as calibrated (see `answer_losses`); `loss` is that
        of the target's text, summed over its tokens.
        `probability` is that of the prediction among the options, as calibrated; NaN where answers are open.
        """
        found = [self._probability(row) for row in range(len(self.predictions))]
        return pd.DataFrame(
            {
                "row": range(len(self.predictions)),
                "where": [row.where for row in self.examples],
                "input": [row.input for row in self.examples],
                "target": [row.target for row in self.examples],
                "prediction": self.predictions,
                "right": [own in row.outputs for own, row in zip(self.predictions, self.examples, strict=True)],
                "probability": found,
                "answer_loss": self.answer_losses,
                "loss": self.losses,
            }
        )

    def per_class(self) -> pd.DataFrame:
        """Precision, recall, F1 and support (rows of the class), one line per class; NaN where no row counts.

        Raises `TaskError` if the rows have no classes in common.
        """
        classes, targets = self._require_classes(), self._targets()
        parts = precision_recall_fscore_support(targets, self.predictions, labels=classes, zero_division=np.nan)
        columns = dict(zip(("precision", "recall", "F1", "support"), parts, strict=True))
        return pd.DataFrame({"class": classes, **columns})

    def confusion(self) -> pd.DataFrame:
        """How many rows of each class (line) were given which answer (column).

        Raises `TaskError` if the rows have no classes in common.
        """
        classes = self._require_classes()
        answers = [own if own in classes else OTHER for own in self.predictions]
        names = [*classes, *([OTHER] if OTHER in answers else [])]
        counts = confusion_matrix(self._targets(), answers, labels=names)[: len(classes)]
        return pd.DataFrame(counts, pd.Index(classes, name="target"), pd.Index(names, name="prediction"))

    def _targets(self) -> list[str]:
        """The class of each row; where several answers are right, the predicted one if it is among them."""
        pairs = zip(self.predictions, self.examples, strict=True)
        return [own if own in row.outputs else row.target for own, row in pairs]

    def _require_classes(self) -> list[str]:
        if not self.classes:
            raise TaskError("the rows have no classes in common to count by; use frame() for what each was answered")
        return list(self.classes)

    def _probability(self, row: int) -> float:
        if not self.scores or not self.scores[row]:
            return math.nan
        lengths = self.lengths[row] if self.lengths else ()
        adjusted = self.calibration.adjusted(self.scores[row], self.options[row], lengths)
        return float(softmax(adjusted)[self.options[row].index(self.predictions[row])])


def _score(
    metric: str,
    predictions: Sequence[str],
    examples: Sequence[Example],
    *,
    loss: float,
    scores: Sequence[Sequence[float]],
) -> float:
    # A module whose logits are not numbers would score as if it had chosen each first option.
    if not math.isfinite(loss) or any(math.isnan(score) for row in scores for score in row):
        return math.nan
    return METRICS[metric].compute(list(predictions), [example.outputs for example in examples])


def _finite(values: Sequence[float]) -> bool:
    return all(math.isfinite(value) for value in values)
