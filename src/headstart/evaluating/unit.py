"""Evaluation as a unit of work: which inputs count, and what is kept of every row."""

import time
from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from headstart.backbones import Backbone, BackboneInput, TextFormat
from headstart.backbones.load import load_of, tokens_of
from headstart.backbones.source import RESOURCE
from headstart.evaluating.evaluate_many import evaluate_many
from headstart.evaluating.evaluation import Evaluation
from headstart.kinds import Module
from headstart.kinds.unit import given_module
from headstart.tasks import METRICS, Example
from headstart.units import Content, Context, Load, Result, Unit
from headstart.units.unit import Found, alone

__all__ = ["EvaluateUnit"]


@dataclass(frozen=True, eq=False)
class EvaluateUnit(Unit):
    """The score of one module, or of the bare backbone (`None`), on rows whose answers are known.

    Kept without calibration: it is chosen afterwards, from what is kept of every row.
    """

    type: ClassVar[str] = "evaluate"
    version: ClassVar[int] = 2  # 2: losses, and options with their log-likelihoods and lengths, of every row
    uncounted: ClassVar[frozenset[str]] = frozenset({"name"})
    together: ClassVar[int] = 8

    backbone: BackboneInput
    module: Module | Unit | None
    rows: Content[Sequence[Example]]
    metric: str
    decoding: str
    text_format: TextFormat
    name: str = ""

    @property
    def label(self) -> str:
        """Which module is evaluated."""
        return f"evaluating {self.name or 'a module'}"

    @property
    def versions(self) -> dict[str, int]:
        """The metric's."""
        return {f"metric {self.metric}": METRICS[self.metric].version}

    def load(self, context: Context) -> Load:
        """One pass over the rows, with the options of each that its input does not already count."""
        backbone: Backbone = context.resource(RESOURCE)
        return load_of(backbone, forward=tokens_of(self.rows.value, backbone, self.text_format, options=True))

    def batch_key(self) -> Hashable:
        """Modules on the same rows can be evaluated together."""
        return (self.backbone, self.rows.digest(), self.metric, self.decoding, self.text_format)

    def compute(self, context: Context) -> Result:
        """Evaluate this module alone."""
        return alone(self, context)

    @classmethod
    def compute_many(cls, units: Sequence[Self], context: Context) -> Iterator[Found]:
        """Evaluate modules of equal shape in one stack."""
        backbone: Backbone = context.resource(RESOURCE)
        modules = [given_module(unit.module, context) for unit in units]
        first, began = units[0], time.monotonic()
        found = evaluate_many(
            modules, first.rows.value, backbone, metric=first.metric, decoding=first.decoding,
            text_format=first.text_format, progress=context.listener,
        )  # fmt: skip
        seconds = (time.monotonic() - began) / len(units)
        for unit, evaluation in zip(units, found, strict=True):
            yield unit, _kept(evaluation, device=str(backbone.device), seconds=seconds)

    def evaluation(self, result: Result) -> Evaluation:
        """What `evaluate_many` would have returned."""
        facts, tensors, rows = result.facts, result.tensors, tuple(self.rows.value)
        options: tuple[tuple[str, ...], ...] = ()
        if facts["decoding"] == "head":
            options = (tuple(facts["labels"]),) * len(rows)
        elif facts["decoding"] == "options":
            options = tuple(tuple(dict.fromkeys(row.options or ())) for row in rows)
        sizes = [len(own) for own in options]
        predictions = tuple(row["prediction"] for row in result.rows)
        return Evaluation(
            facts["metric"], facts["score"], facts["loss"], predictions, facts["decoding"],
            losses=tuple(tensors["losses"].tolist()), options=options, scores=_divided(tensors["scores"], sizes),
            lengths=_divided(tensors["lengths"], sizes if len(tensors["lengths"]) else []),
            examples=rows, uncalibrated=predictions,
        )  # fmt: skip


def _kept(found: Evaluation, *, device: str, seconds: float) -> Result:
    """The result of an evaluation; the options of rows are known from the rows, a head's labels are not."""
    facts: dict[str, Any] = {"metric": found.metric, "score": found.score, "loss": found.loss}
    facts["decoding"] = found.decoding
    if found.decoding == "head":
        facts["labels"] = list(found.options[0])
    tensors: dict[str, NDArray[Any]] = {
        "losses": np.array(found.losses, dtype=np.float64),
        "scores": np.array([value for row in found.scores for value in row], dtype=np.float64),
        "lengths": np.array([value for row in found.lengths for value in row], dtype=np.int64),
    }
    rows = [{"prediction": prediction} for prediction in found.predictions]
    return Result(facts, rows, tensors=tensors, device=device, seconds=seconds)


def _divided(values: NDArray[Any], sizes: Sequence[int]) -> tuple[tuple[Any, ...], ...]:
    """The flat values in rows of these sizes."""
    ends = np.cumsum(sizes).tolist()
    flat = values.tolist()
    return tuple(tuple(flat[end - size : end]) for size, end in zip(sizes, ends, strict=True))
