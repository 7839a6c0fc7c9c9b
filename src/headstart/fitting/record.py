"""What one run of `fit` found: everything that its page shows, without the modules themselves."""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

import pandas as pd

from headstart.comparing.agreement import AGREEMENT, ALONE
from headstart.comparing.comparison import SCRATCH
from headstart.comparing.decision import spoken
from headstart.comparing.frames import frame_from_json, frame_to_json, number_from_json, plain
from headstart.errors import CardError
from headstart.fitting.verdict import CONTRASTS, TABLE, Verdict
from headstart.records import TaskCard
from headstart.showing import cut, html_table, line, plural

if TYPE_CHECKING:
    from headstart.kinds import Module
    from headstart.ranking.rank import Ranking
    from headstart.tuning.tune import Tuned

__all__ = ["FIT_FRAMES", "FitRecord", "Fitted"]

FIT_FRAMES: Mapping[str, tuple[str, ...]] = {
    "methods": TABLE,
    "contrasts": CONTRASTS,
    "ranking": ("module", "task", "family", "license", "weight"),
    "refused": ("module", "reason"),
    "curve": ("step", "train_loss", "dev_loss", "dev_score"),
    "answers": ("row", "input", "target", "prediction", "right", "probability"),
    "importance": ("module", "part", "stack", "block", "sublayer", "value"),
    "agreement": AGREEMENT,
    "map": ("module", "family", "x", "y", "weight"),
    "donors": ALONE,
}
"""The columns that each frame of a fit has. `ranking` also has one for each indicator."""

_VERSION = 1
_TEXTS = ("choice", "method", "leader", "sentence", "remedy", "lacks", "split")


@dataclass(frozen=True, eq=False)
class FitRecord:
    """What one run of `fit` found. Scores and indicators: higher is better; losses: lower. What is missing is NaN.

    Attributes:
        task: the task that was fitted.
        settings: everything needed to run it again, and how long its units of work took together (`seconds`).
        choice, method, leader, sentence, remedy: those of the `Verdict`.
        lacks: what the hub lacks for this task; "" where a start is used.
        score: the saved module's score on `rows` rows of `split`: the task's test split if it has one, else dev.
        frames: tables by name, see `FIT_FRAMES`: the `methods` on the held-out rows and their `contrasts`; the
            `ranking` with the weights of the start that leads; `refused` modules; the `curve` of the saved module, and
            some `answers`, drawn at random; `importance`, −‖gradient‖ of the best modules by part of the backbone;
            `agreement`, the share of the shots that two of them answer alike; the `map` of tasks, two dimensions of
            which keep the cosines between modules as well as two can; and `donors`, how many of the shots each of them
            has right, and how many it `alone` has, with one of these.
        notes: what else a reader should know.
    """

    task: TaskCard
    settings: Mapping[str, Any]
    choice: str
    method: str
    leader: str
    sentence: str
    remedy: str
    lacks: str
    score: float
    rows: int
    split: str
    frames: Mapping[str, pd.DataFrame]
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for name, columns in FIT_FRAMES.items():
            lacking = set(columns) - set(self.frames[name].columns)
            if lacking:
                raise CardError(f"the table '{name}' of a fit lacks the column '{min(lacking)}'; fit again")

    def __repr__(self) -> str:
        return line(type(self).__name__, cut(self.task.name), *self._words)

    @property
    def _words(self) -> tuple[str, str]:
        begun = "from scratch" if self.method == SCRATCH else f"from {spoken(self.method)}"
        score = f"{self.split} {self.task.metric} {self.score:.4g} on {plural(self.rows, 'row')}"
        return f"{self.choice}: tuned {begun}", score

    @property
    def score_interval(self) -> tuple[float, float]:
        """The 95 % interval of `score` over other rows (`Evaluation.interval`); NaN if it is not known."""
        low, high = (self.settings.get(name) for name in ("score_low", "score_high"))
        return (low, high) if isinstance(low, float) and isinstance(high, float) else (math.nan, math.nan)

    def contrast(self, method: str, other: str, *, measure: str = "loss") -> dict[Any, Any] | None:
        """The line of `contrasts` that compares two methods, or `None` if there is none."""
        table = self.frames["contrasts"]
        own = table[(table["method"] == method) & (table["other"] == other) & (table["measure"] == measure)]
        return next(iter(own.to_dict("records")), None)

    def to_json(self) -> str:
        """The record as strict JSON with a final newline; numbers and tables as in `Comparison.to_json`."""
        data: dict[str, Any] = {"schema_version": _VERSION, "task": self.task.model_dump(mode="json")}
        data |= {name: getattr(self, name) for name in _TEXTS}
        data |= {"score": plain(self.score, "score"), "rows": self.rows, "notes": list(self.notes)}
        data["settings"] = plain(self.settings, "settings")
        data["frames"] = {name: frame_to_json(self.frames[name], name) for name in FIT_FRAMES}
        return json.dumps(data, indent=1, ensure_ascii=False, allow_nan=False) + "\n"

    @classmethod
    def from_json(cls, text: str, *, source: str = "the fit") -> Self:
        """Parse what `to_json` wrote. Raises `CardError` naming `source` and what is wrong."""
        try:
            data = json.loads(text)
            if data["schema_version"] != _VERSION:
                raise CardError(
                    f"{source} has schema version {data['schema_version']}, this Headstart reads {_VERSION}; "
                    "upgrade Headstart"
                )
            frames = {name: frame_from_json(data["frames"][name]) for name in FIT_FRAMES}
            return cls(
                TaskCard.model_validate(data["task"]), dict(data["settings"]), score=number_from_json(data["score"]),
                rows=int(data["rows"]), frames=frames, notes=tuple(data["notes"]),
                **{name: str(data[name]) for name in _TEXTS},
            )  # fmt: skip
        except KeyError as error:
            raise CardError(f"{source} lacks the field {error}; fit again") from error
        except (TypeError, ValueError, AttributeError) as error:
            raise CardError(f"{source} is not the record of a fit ({error}); fit again") from error


@dataclass(frozen=True, eq=False)
class Fitted:
    """What `fit` returns.

    Attributes:
        tuned: the saved module and how its tuning went. From scratch, where the guard abstained.
        ranking: the hub's modules scored for the task.
        verdict: whether a start was used, and why.
        record: everything that the page of the report shows.
    """

    tuned: "Tuned"
    ranking: "Ranking"
    verdict: Verdict
    record: FitRecord

    def __repr__(self) -> str:
        return line(type(self).__name__, cut(self.module.name), *self.record._words)

    def _repr_html_(self) -> str:
        return html_table(self.verdict.table, title=self.verdict.sentence)

    @property
    def module(self) -> "Module":
        """The tuned module, which `predict`, `evaluate` and `save_module` take."""
        return self.tuned.module
