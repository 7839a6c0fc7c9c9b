"""The record of one comparison: every method on the same task, seeds and budget, with what was ranked and refused."""

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Self

import pandas as pd
from pydantic import ValidationError

from headstart.comparing.frames import frame_from_json, frame_to_json, plain
from headstart.errors import CardError
from headstart.records import TaskCard
from headstart.showing import cut, html_table, line, plural

if TYPE_CHECKING:
    from headstart.kinds import Module

__all__ = ["DEFAULT_METHODS", "ENSEMBLE", "FRAMES", "SCRATCH", "STAGES", "Comparison"]

SCRATCH = "scratch"
"""The method that starts from an untrained module; every gain is measured against it."""

ENSEMBLE = "ensemble"
"""The method that starts from the weighted module."""

DEFAULT_METHODS = (SCRATCH, "random", "average", "best_single", ENSEMBLE)
"""The methods compared by default, in the order in which reports show them."""

STAGES = ("zero-shot", "tuned")

FRAMES: Mapping[str, tuple[str, ...]] = {
    "ranking": ("seed", "module", "task", "family", "license", "weight"),
    "refused": ("module", "reason"),
    "missing": ("seed", "indicator", "module", "reason"),
    "starts": (
        "method", "seed", "made_by", "rank", "parameters", "effective", "temperature", "space", "error", "same_as",
        "digest", "note",
    ),
    "scores": (
        "method", "seed", "stage", "split", "metric", "score", "reason", "steps_to_best", "seconds", "calibration",
        "uncalibrated", "forward_tokens", "backward_tokens",
    ),
    "curves": ("method", "seed", "step", "dev_score", "dev_loss"),
    "answers": ("method", "seed", "stage", "row", "prediction", "uncalibrated"),
    "examples": ("row", "input", "target", "references", "group"),
    "baselines": ("name", "score", "note"),
}  # fmt: skip
"""The columns that each frame of a comparison must have. `ranking` also has one for each indicator."""

_KEYS: Mapping[str, list[str]] = {
    "ranking": ["seed", "module"],
    "refused": [],
    "missing": ["seed", "indicator", "module"],
    "starts": ["method", "seed"],
    "scores": ["method", "seed", "stage", "split", "metric"],
    "curves": ["method", "seed", "step"],
    "answers": ["method", "seed", "stage", "row"],
    "examples": ["row"],
    "baselines": ["name"],
}
_VERSION = 3
_LATER: Mapping[str, tuple[str, ...]] = {"scores": ("forward_tokens", "backward_tokens")}
"""Columns that records of this version did not always have; there they are NaN."""


@dataclass(frozen=True, eq=False)
class Comparison:
    """What one run of `compare` measured. Scores and indicators: higher is better; what is missing is NaN.

    Attributes:
        task: the task that was compared on.
        settings: everything needed to run it again. `settings["indicator"]` names the indicator that set the weights,
            `settings["methods"]` lists the methods' labels in order, and `settings["subject"]` is the blend
            whose weights the ranking shows. `settings["seconds"]` is the time that all its units of work took together,
            in whichever runs they were computed.
        ranking: one row per (seed, module) that was scored: its `weight` in the subject, and a column per indicator.
        refused: modules that did not take part, with the reason; may be empty.
        missing: one row per (seed, indicator, module) without a value, with the reason; may be empty.
        starts: one row per (method, seed): `made_by` is the method's name; `rank` and `parameters` (a count) describe
            its start; `effective` (number of modules), `temperature`, `space` and `error` (of ΔW) describe its blend;
            `same_as` is the earlier method that begins from the very same module, else empty.
        scores: one row per (method, seed, stage, split, metric); a missing `score` is NaN and has a `reason`.
            `calibration` is how the answers were calibrated ("none": not at all), `uncalibrated` the score without.
            `seconds` is what testing (before tuning) or tuning took. `forward_tokens` are the tokens that the backbone
            read on the way there, padding and the tests left out: for the scores of the hub's modules, if the method
            weighs by them, and for tuning; gradients go back through `backward_tokens` of them.
        curves: one row per (method, seed, step) evaluated while tuning; step 0 is before tuning.
        answers: one row per (method, seed, stage, row) of the test split: the `prediction`, and what it was before
            calibration; empty in a record of version 2.
        examples: one row per test row: its `input` (the first 400 characters), its first correct answer, all correct
            answers as JSON, and its group ("" without one); empty in a record of version 2.
        baselines: the scores of "chance", "majority" and "backbone" (nothing tuned) on the test split, each with a
            note on what it is or why it is missing; empty in a record of version 2.
        notes: what else a reader should know.
        modules: the tuned modules that were asked for, by "METHOD-seedN"; not a part of the record in JSON.

    Raises:
        CardError: a frame lacks a column, or has two rows for what must be one.
    """

    task: TaskCard
    settings: dict[str, Any]
    ranking: pd.DataFrame
    refused: pd.DataFrame
    missing: pd.DataFrame
    starts: pd.DataFrame
    scores: pd.DataFrame
    curves: pd.DataFrame
    notes: tuple[str, ...] = ()
    answers: pd.DataFrame = field(default_factory=lambda: _empty("answers"))
    examples: pd.DataFrame = field(default_factory=lambda: _empty("examples"))
    baselines: pd.DataFrame = field(default_factory=lambda: _empty("baselines"))
    modules: Mapping[str, "Module"] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name, columns in FRAMES.items():
            _check_frame(name, getattr(self, name), columns)

    def __repr__(self) -> str:
        return line(type(self).__name__, self._title, f"methods: {', '.join(self.methods)}")

    def _repr_html_(self) -> str:
        return html_table(self.means(), title=self._title)

    @property
    def _title(self) -> str:
        rows = f", {plural(len(self.examples), 'test row')}" if len(self.examples) else ""
        return f"{cut(self.task.name)} by {self.task.metric}, {plural(self.scores['seed'].nunique(), 'seed')}{rows}"

    def means(self) -> pd.DataFrame:
        """The mean score of each method over seeds, a row a method and a column a stage; NaN where one is missing."""
        by = self.scores.groupby(["method", "stage"])["score"].agg(lambda found: found.mean(skipna=False)).unstack()
        stages = [stage for stage in ("zero-shot", "tuned") if stage in by]
        return by.reindex(list(self.methods))[stages].reset_index().rename_axis(columns=None)

    @property
    def indicators(self) -> tuple[str, ...]:
        """Names of the indicators in `ranking`, in column order."""
        return tuple(str(column) for column in self.ranking.columns if column not in FRAMES["ranking"])

    @property
    def methods(self) -> tuple[str, ...]:
        """The methods' labels in the order of reports: those that were requested, then any others that have results."""
        asked = [str(label) for label in self.settings.get("methods", DEFAULT_METHODS)]
        return tuple(dict.fromkeys([*asked, *map(str, self.scores["method"]), *map(str, self.curves["method"])]))

    @property
    def subject(self) -> str:
        """The label of the blend whose weights `ranking` holds."""
        return str(self.settings.get("subject", ENSEMBLE))

    def state(self) -> str:
        """A hash of the tables and settings that claims are made of: another one after a change in place."""
        whole = hashlib.sha256(repr((self.task.metric, self.task.labels, self.methods)).encode())
        for name in ("starts", "scores", "answers", "examples"):
            frame = getattr(self, name)
            whole.update(pd.util.hash_pandas_object(frame, index=False).to_numpy().tobytes())
        return whole.hexdigest()

    def to_json(self) -> str:
        """The comparison as strict JSON with a final newline: NaN is null, ±infinity the text "Infinity", "-Infinity".

        Each frame is a list of columns `{"name", "type", "values"}`. Raises `CardError` for a setting or a column
        that JSON cannot hold.
        """
        data: dict[str, Any] = {"schema_version": _VERSION, "task": self.task.model_dump(mode="json")}
        data["settings"] = {str(key): plain(value, f"settings.{key}") for key, value in self.settings.items()}
        for name in FRAMES:
            data[name] = frame_to_json(getattr(self, name), name)
        data["notes"] = list(self.notes)
        return json.dumps(data, indent=1, ensure_ascii=False, allow_nan=False) + "\n"

    @classmethod
    def from_json(cls, text: str, *, source: str = "the comparison") -> Self:
        """Parse what `to_json` wrote. Raises `CardError` naming `source` and the offending field."""
        try:
            data = json.loads(text)
        except json.JSONDecodeError as error:
            raise CardError(f"{source} is not valid JSON ({error}); write it again or remove it") from error
        version = data.get("schema_version") if isinstance(data, dict) else None
        if version not in (2, _VERSION):
            raise CardError(
                f"{source} has schema version {version}, this Headstart reads 2 and {_VERSION}; "
                "choose a comparison.json, or upgrade Headstart"
            )
        try:
            if version == 2:
                data = _from_version_2(data)
            frames = {name: frame_from_json(data[name]) for name in FRAMES}
            for name, columns in _LATER.items():
                frames[name] = frames[name].assign(**dict.fromkeys(set(columns) - set(frames[name]), math.nan))
            task = TaskCard.model_validate(data["task"])
            return cls(task=task, settings=dict(data["settings"]), notes=tuple(data["notes"]), modules={}, **frames)
        except KeyError as error:
            raise CardError(f"{source} lacks the field {error}; write the comparison again") from error
        except ValidationError as error:
            first = error.errors()[0]
            field = ".".join(str(part) for part in ("task", *first["loc"]))
            raise CardError(f"{source}: field '{field}': {first['msg']}; correct that field") from error
        except (TypeError, ValueError, AttributeError) as error:
            raise CardError(f"{source} holds a malformed table ({error}); write the comparison again") from error
        except CardError as error:
            raise CardError(f"{source}: {error}") from error


def _empty(name: str) -> pd.DataFrame:
    return pd.DataFrame(columns=list(FRAMES[name]))


def _from_version_2(data: dict[str, Any]) -> dict[str, Any]:
    """A record of version 2, which kept no answers: nothing was calibrated, and the new frames are empty."""
    scores = {column["name"]: column for column in data["scores"]}
    none = {"name": "calibration", "type": "text", "values": ["none"] * len(scores["score"]["values"])}
    missing = {
        name: [{"name": column, "type": "text", "values": []} for column in FRAMES[name]]
        for name in ("answers", "examples", "baselines")
    }
    return data | missing | {"scores": [*scores.values(), none, scores["score"] | {"name": "uncalibrated"}]}


def _check_frame(name: str, frame: pd.DataFrame, columns: tuple[str, ...]) -> None:
    lacking = [column for column in columns if column not in frame.columns]
    if lacking:
        raise CardError(f"comparison table '{name}' lacks the column '{lacking[0]}'; it needs: {', '.join(columns)}")
    if not frame.columns.is_unique:
        raise CardError(f"comparison table '{name}' has two columns of one name; rename one of them")
    keys = _KEYS[name]
    if not keys:
        return
    twice = frame.duplicated(keys)
    if twice.any():
        row = frame.loc[twice, keys].iloc[0]
        where = ", ".join(f"{key} {row[key]}" for key in keys)
        raise CardError(f"comparison table '{name}' has two rows for {where}; keep one of them")
