"""Predicting with a module: rows without targets in, the same rows with an answer and its probability out."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from scipy.special import softmax

from headstart.backbones import Backbone, BackboneLike, TextFormat
from headstart.errors import SettingError, TaskError
from headstart.evaluating.answering import Answers, answer_rows, check_decoding, decoding_for
from headstart.evaluating.reading import Reader, rows_of
from headstart.events import Listener, Progress
from headstart.kinds import Module, ModuleLike, as_module, backbone_for, stack_of
from headstart.records import Calibration
from headstart.tasks.sources import Rows

__all__ = ["CHUNK", "Predictor", "predict"]

CHUNK = 256
"""How many rows are read, answered and handed on at a time."""

RowsLike = str | Path | pd.DataFrame | Iterable[Mapping[str, object]]
"""Rows to predict: a JSONL, CSV, TSV or Parquet file, a DataFrame, or dicts."""


def predict(
    module: ModuleLike | None,
    rows: RowsLike,
    backbone: BackboneLike | None = None,
    *,
    labels: Sequence[str] | None = None,
    input: str | None = None,  # noqa: A002 - as in Task.load
    separator: str | None = None,
    every: bool = False,
    calibrated: bool = True,
    decoding: str = "auto",
    text_format: TextFormat | None = None,
    progress: Listener | None = None,
) -> pd.DataFrame:
    """Answer rows whose answers are not known.

    Rows are read as those of the task that the module was tuned on: its card holds their template, the labels or where
    options come from, the prompt's layout and the calibration. Each argument in its place overrides the card.

    Args:
        module: a module, a result that holds one, its folder, or `None` for the bare backbone.
        rows: with the columns of the task, except the target's: a JSONL, CSV, TSV or Parquet file, a list of dicts, or
            a table of pandas, datasets or pyarrow.
        backbone: the frozen model; `None` is the one that the module says it is for.
        labels: the answers to choose from.
        input: a column, or a template of columns such as "{title}: {text}".
        separator: the text between two texts of the input; only together with `input`.
        every: whether to add a column "probability_LABEL" for every label.
        calibrated: whether likelihoods are calibrated as the card says.
        decoding: as in `evaluate`: "generate" writes open answers.
        text_format: text layout and cut lengths.
        progress: hears how many rows are answered.

    Returns:
        The rows with "label" and "probability", the softmax over the options of their log-likelihoods, which are
        calibrated; or with "answer", where answers are open, a number or a span. Where a column of that name is there
        already, the new one begins with "predicted_".

    Raises:
        ModuleError: the module does not fit the backbone.
        SettingError: nothing says what the answers are.
        TaskError: a row does not fit the template, or has no options.

    Examples:
        >>> answers = hs.predict(tuned, [{"input": "the song is warm"}], backbone)
        >>> list(answers.columns)
        ['input', 'label', 'probability']
    """
    given = rows_of(rows)
    predictor = Predictor.of(
        module, backbone, labels=labels, input=input, separator=separator, every=every, calibrated=calibrated,
        decoding=decoding, text_format=text_format,
    )  # fmt: skip
    return pd.DataFrame([line for chunk in predictor.chunks(given, progress=progress) for line in chunk])


@dataclass(frozen=True, eq=False)
class Predictor:
    """A module that is ready to answer rows; made by `of`, with the arguments of `predict`."""

    module: Module | None
    backbone: Backbone
    reader: Reader
    text_format: TextFormat
    calibration: Calibration
    decoding: str
    every: bool

    @classmethod
    def of(
        cls,
        module: ModuleLike | None,
        backbone: BackboneLike | None,
        *,
        labels: Sequence[str] | None = None,
        input: str | None = None,  # noqa: A002 - as in Task.load
        separator: str | None = None,
        every: bool = False,
        calibrated: bool = True,
        decoding: str = "auto",
        text_format: TextFormat | None = None,
    ) -> Predictor:
        """The predictor; raises as `predict` does, except for rows."""
        loaded = None if module is None else as_module(module).load()
        card = None if loaded is None else loaded.card
        reader = Reader.of(card, labels=labels, input=input, separator=separator, decoding=decoding)
        backbone = backbone_for(loaded, backbone)
        check_decoding(decoding, backbone)
        if loaded is None and backbone.is_encoder:
            raise SettingError(f"{backbone.name} is an encoder, which answers through a task head; give a tuned module")
        if loaded is not None:
            loaded.check(backbone)
        layout = text_format or (card and card.text_format) or TextFormat()
        chosen = card.calibration if card is not None and calibrated else None
        return cls(loaded, backbone, reader, layout, chosen or Calibration(), decoding, every)

    def chunks(self, rows: Rows, *, progress: Listener | None = None) -> Iterator[list[dict[str, Any]]]:
        """The answered rows, up to `CHUNK` at a time; in between, the module is not attached."""
        done, names = 0, _Names()
        while chunk := list(islice(rows, CHUNK)):
            yield self._answered(chunk, names)
            done += len(chunk)
            if progress:
                progress(Progress("predicting", done, None, f"{done:,} rows"))
        if not done:
            raise TaskError("there are no rows to predict; add some")

    def _answered(self, chunk: Sequence[tuple[str, Mapping[str, object]]], names: _Names) -> list[dict[str, Any]]:
        examples = self.reader.examples(chunk)
        how = decoding_for(self.decoding, examples, self.backbone)
        head = None if self.module is None else self.module.card.head
        attached = (
            nullcontext() if self.module is None else stack_of([self.module], self.backbone).attach(self.backbone)
        )
        with torch.inference_mode(), attached:
            (answers,) = answer_rows(
                self.backbone, examples, decoding=how, text_format=self.text_format, head=head
            )  # fmt: skip
        return [
            {**fields, **names.beside(fields, self._answer(answers, row), where=where)}
            for row, (where, fields) in enumerate(chunk)
        ]

    def _answer(self, answers: Answers, row: int) -> dict[str, Any]:
        """The columns that one row gets."""
        if not answers.scores or not answers.scores[row]:
            if self.every:
                raise _no_columns("there are no labels to give a probability each: answers are open")
            return {"answer": answers.predictions[row]}
        options, scores = answers.options[row], answers.scores[row]
        adjusted = self._calibrated(scores, options, answers.lengths[row] if answers.lengths else ())
        probabilities = [float(value) for value in softmax(adjusted)]
        if any(math.isnan(value) for value in probabilities):
            raise SettingError("the module gives likelihoods that are not numbers; tune it anew, or choose another")
        best = adjusted.index(max(adjusted))
        found: dict[str, Any] = {"label": options[best], "probability": probabilities[best]}
        if self.every:
            if self.reader.card.labels is None:
                raise _no_columns("the options differ from row to row, so labels have no columns")
            found |= {f"probability_{name}": value for name, value in zip(options, probabilities, strict=True)}
        return found

    def _calibrated(self, scores: Sequence[float], options: Sequence[str], lengths: Sequence[int]) -> list[float]:
        """The scores as the card's calibration compares them, if it was made for these options."""
        other = self.calibration.method == "batch" and not set(options) <= self.calibration.offsets.keys()
        return list(scores) if other or not lengths else self.calibration.adjusted(scores, options, lengths)


def _no_columns(said: str) -> SettingError:
    return SettingError(f"{said}; leave out every=True").with_options({"every=True": "--all"})


class _Names:
    """The names of the new columns, the same in every row: those that the first row has already get a prefix."""

    def __init__(self) -> None:
        self._names: dict[str, str] = {}

    def beside(self, fields: Mapping[str, object], found: Mapping[str, Any], *, where: str) -> dict[str, Any]:
        if not self._names:
            self._names = {name: f"predicted_{name}" if name in fields else name for name in found}
        taken = next((name for name in self._names.values() if name in fields), None)
        if taken is not None:
            raise TaskError(f"{where}: the row has a column '{taken}', which the prediction needs; rename it")
        return {self._names[name]: value for name, value in found.items()}
