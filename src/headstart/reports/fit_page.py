"""What stands on the page of a fit, as plain values for the template: texts, and positions of marks in percent."""

import math
import shlex
from collections.abc import Mapping
from typing import Any

import pandas as pd

from headstart.comparing.comparison import SCRATCH
from headstart.comparing.decision import CONTROL
from headstart.comparing.decision import spoken as named
from headstart.evaluating.loss_unit import NATS, SQUARES
from headstart.fitting.record import FIT_FRAMES, FitRecord
from headstart.fitting.verdict import ALPHA
from headstart.reports.axes import Axis, line_points, tick_values
from headstart.reports.cells import (
    DASH,
    MEANS,
    cell_text,
    common_decimals,
    fixed_text,
    frame_cells,
    number_text,
    short_family,
    signed,
)
from headstart.reports.explaining import explanations
from headstart.reports.page import FIRST_MODULES, MOST_MODULES, spoken
from headstart.reports.tables import flat_settings

__all__ = ["fit_values"]

_OUTCOMES: Mapping[str, str] = {"win": "better", "loss": "worse", "undecided": "undecided"}


ELSEWHERE = ("command", "call", "advice")
"""Settings that the page shows outside its table of settings."""


def fit_values(record: FitRecord, *, folder: str) -> dict[str, Any]:
    """Everything that the template of a fit's page shows; `folder`: what the module's folder is called."""
    return {
        "task": record.task,
        "metric": record.task.metric,
        "facts": _facts(record),
        "answer": _answer(record, folder=folder),
        "guard": _guard(record),
        "ranking": _ranking(record),
        "curves": _curves(record),
        "answers": _answers(record),
        "explained": explanations(record),
        "refused": frame_cells(record.frames["refused"]),
        "settings": frame_cells(_settings(record)),
        "command": record.settings.get("command", ""),
        "call": record.settings.get("call", ""),
        "notes": [note for note in record.notes if note != record.settings.get("advice")],
    }


def _settings(record: FitRecord) -> pd.DataFrame:
    """All but the call, and the shape of a fresh module: every start of a fit has that of the hub's modules."""
    told = flat_settings({key: value for key, value in record.settings.items() if key not in ELSEWHERE})
    return told[~told["setting"].astype(str).str.startswith("recipe.shape")]


def _facts(record: FitRecord) -> list[str]:
    shots = f"{record.settings['train_rows']} + {record.settings['dev_rows']} examples to tune on"
    modules = f"{record.settings['modules']} modules in the hub"
    if left_out := len(record.frames["refused"]):
        modules = f"{record.settings['modules']} modules, {left_out} left out"
    return [shots, modules, str(record.settings["backbone"])]


def _none(record: FitRecord) -> str:
    """Why no start is used, in a few words."""
    scratch, control = (record.contrast(record.leader, other) for other in (SCRATCH, CONTROL))
    if scratch is None or scratch["outcome"] != "win":
        return "no start is shown to help"
    if control is not None and control["outcome"] != "win":
        return "no start is shown to help more than a random module does"
    return "the best start by its loss answers fewer rightly"


def _answer(record: FitRecord, *, folder: str) -> dict[str, Any]:
    """The verdict, the score of what was saved, and what to do now."""
    used, (low, high) = record.choice == "use", record.score_interval
    row = record.contrast(record.leader, SCRATCH)
    gain = {} if row is None or math.isnan(row["difference"]) else {
        "text": f"{signed(row['difference'], decimals=3)} {record.settings.get('loss_unit', NATS)}",
        "interval": f"{signed(row['low'], decimals=3)} to {signed(row['high'], decimals=3)}",
        "of": named(record.leader),
    }  # fmt: skip
    return {
        "choice": "use" if used else "fresh",
        "headline": "Tuned from a start" if used else "Tuned from scratch",
        "which": spoken(record.method) if used else _none(record),
        "sentence": record.sentence,
        "remedy": record.remedy,
        "lacks": record.lacks,
        "gain": gain,
        "score": fixed_text(record.score, 3),
        "interval": "" if math.isnan(low) else f"{low:.3f} to {high:.3f}",
        "rows": f"{record.rows:,} {record.split} rows" + ("" if record.split == "test" else ", which chose its state"),
        "use": shlex.join(["headstart", "predict", folder, "new-rows.csv"]),
        "advice": record.settings.get("advice", ""),
    }


def _guard(record: FitRecord) -> dict[str, Any]:
    """A line for each method: loss, score, the gain over scratch on one axis, and both outcomes."""
    contrasts = record.frames["contrasts"]
    shown = contrasts[(contrasts["measure"] == "loss") & (contrasts["other"] == SCRATCH)]
    ends = [*shown["low"], *shown["high"], 0.0]
    axis = Axis.around([*ends, -max(map(_size, ends))])
    chance = record.settings.get("chance")  # a page of an older record does without
    methods = record.frames["methods"]
    decimals = min(common_decimals(methods["loss"]), 3)
    lines = []
    for row in methods.to_dict("records"):
        method = str(row["method"])
        gain = record.contrast(method, SCRATCH)
        known = gain is not None and not math.isnan(gain["difference"])
        lines.append(
            {
                "method": spoken(method), "chosen": method == record.method,
                "loss": fixed_text(float(row["loss"]), decimals), "score": fixed_text(float(row["score"]), 3),
                "reason": row["reason"], "outcomes": _outcomes(record, method),
                "mean": axis.at(gain["difference"]) if known and gain else None,
                "low": axis.at(gain["low"]) if known and gain else None,
                "high": axis.at(gain["high"]) if known and gain else None,
                "gain": signed(gain["difference"], decimals=3) if known and gain else "",
                "interval": f"{signed(gain['low'], decimals=3)} to {signed(gain['high'], decimals=3)}"
                if known and gain else "",
            }
        )  # fmt: skip
    held, every = record.settings["held_out"], record.settings["train_rows"] + record.settings["dev_rows"]
    return {
        "lines": lines, "ticks": tick_values(axis), "zero": axis.at(0.0), "folds": record.settings["folds"],
        "rows": "each example once" if held == every else f"{held:,} of the {every:,} once",
        "squares": _squares(record), "level": ALPHA,
        "chance": "" if chance is None or math.isnan(chance) else fixed_text(chance, 3),
    }  # fmt: skip


def _size(value: float) -> float:
    return 0.0 if math.isnan(value) else abs(value)


def _outcomes(record: FitRecord, method: str) -> list[dict[str, str]]:
    """What a start is against scratch and against the random module."""
    found = []
    for other, title in ((SCRATCH, "scratch"), (CONTROL, "random")):
        row = record.contrast(method, other)
        if row is not None:
            outcome = str(row["outcome"])
            joint = {"win": "than", "loss": "than", "undecided": "against"}[outcome]
            found.append({"outcome": outcome, "said": f"{_OUTCOMES[outcome]} {joint} {title}"})
    return found


def _ranking(record: FitRecord) -> dict[str, Any]:
    table = record.frames["ranking"]
    table = table.assign(family=table["family"].fillna("").map(short_family))
    most = table["weight"].abs().max() if len(table) else math.nan
    others = [str(name) for name in table.columns if name not in FIT_FRAMES["ranking"]]
    measured = [name for name in others if pd.api.types.is_numeric_dtype(table[name])]
    told = [name for name in others if name not in measured]
    facts = [name for name in (*told, "task", "family", "license") if table[name].fillna("").astype(str).any()]
    facts = [name for name in facts if not (table[name] == table["module"]).all()]
    columns = [*measured, *facts]
    rows = [
        {
            "module": str(row["module"]), "weight": cell_text(row["weight"]),
            "share": None if math.isnan(row["weight"]) or not most > 0 else round(100 * abs(row["weight"]) / most, 2),
            "cells": [cell_text(row[name]) or DASH for name in columns],
        }
        for row in table.head(MOST_MODULES).to_dict("records")
    ]  # fmt: skip
    bare = record.settings.get("bare")
    return {
        "rows": rows, "columns": columns, "numbers": len(measured), "first": FIRST_MODULES, "modules": len(table),
        "subject": named(record.leader) if record.leader else "no start", "used": record.choice == "use",
        "indicator": record.settings.get("indicator", ""),
        "means": MEANS.get(record.settings.get("indicator", ""), ""),
        "bare": "" if bare is None or math.isnan(bare) else number_text(bare),
    }  # fmt: skip


def _squares(record: FitRecord) -> bool:
    """Whether losses are squared errors."""
    return bool(record.settings.get("loss_unit", NATS) == SQUARES)


def _curves(record: FitRecord) -> list[dict[str, Any]]:
    """Dev score and dev loss of the saved module, a small plot each."""
    table, found = record.frames["curve"], []
    plain = "" if record.settings.get("calibration", "none") == "none" else " before calibration"
    unit = "" if _squares(record) else " in nats a token"
    titles = {
        "dev_score": f"Dev {record.task.metric}{plain}, higher is better",
        "dev_loss": f"Dev loss{unit}, lower is better",
    }
    for name, title in titles.items():
        own = table.dropna(subset=[name])
        if own.empty:
            continue
        axis = Axis.of_metric(record.task.metric, own[name]) if name == "dev_score" else Axis.around(own[name])
        steps = Axis(0.0, float(own["step"].max()) or 1.0, (0.0,))
        first, last = own.iloc[0], own.iloc[-1]
        said = f"{number_text(first[name], digits=3)} at step {first['step']:g}, "
        said += f"{number_text(last[name], digits=3)} at step {last['step']:g}"
        panel = {"method": title, "arrival": "", "band": "", "all": "", "last": said}
        panel["whole"] = line_points(own["step"], own[name], across=steps, up=axis)
        found.append(
            {"title": title, "behind": "", "ticks": tick_values(axis), "last": f"{steps.high:g}", "panel": panel}
        )
    return found


def _answers(record: FitRecord) -> list[dict[str, Any]]:
    return [
        {
            "input": str(row["input"])[:400], "target": str(row["target"]), "prediction": str(row["prediction"]),
            "right": bool(row["right"]),
            "probability": "" if pd.isna(row["probability"]) else f"{float(row['probability']):.2f}",
        }
        for row in record.frames["answers"].to_dict("records")
    ]  # fmt: skip
