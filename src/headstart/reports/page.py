"""What stands on the page of a report, as plain values for the template: texts, and positions of marks in percent."""

import math
from collections.abc import Mapping
from functools import partial
from typing import Any

import pandas as pd

from headstart.comparing.agreement import agreement, answers_by_method, right_alone
from headstart.comparing.classes import class_scores
from headstart.comparing.comparison import SCRATCH, STAGES, Comparison
from headstart.comparing.decision import CONTROL, CONTROL_MEANS, DOUBTED, USE, Decision
from headstart.comparing.decision import spoken as named
from headstart.reports.axes import Axis, line_points, tick_values
from headstart.reports.cells import (
    DASH,
    Footnotes,
    cell_text,
    common_decimals,
    fixed_text,
    frame_cells,
    number_text,
    short_family,
    signed,
)
from headstart.reports.chosen import chosen_rows
from headstart.reports.explaining import agreement_values, alone_values
from headstart.reports.tables import (
    chosen_indicator,
    curve_table,
    main_metric,
    missing_table,
    ranking_table,
    seed_scores,
    settings_table,
    starts_table,
)
from headstart.showing import capitalized

__all__ = ["FIRST_MODULES", "MOST_MODULES", "page_values", "spoken"]

FIRST_MODULES, MOST_MODULES = 12, 500
"""How many modules are shown at once, and how many if the reader unfolds the rest; ranking.csv has all."""
FIRST_LINES, FIRST_PANELS = 12, 8
FIRST_CLASSES = 20
MOST_ALIKE = 8

_HEADLINES: Mapping[str, str] = {
    "use": USE, "fresh": "Train fresh: the hub has nothing for this task", "undecided": "Cannot tell yet"
}  # fmt: skip
_STAGES: Mapping[str, str] = {"tuned": "After tuning", "zero-shot": "Before tuning"}
_OUTCOMES: Mapping[str, str] = {
    "win": "better",
    "loss": "worse",
    "undecided": "undecided",
    "not measured": "not measured",
}
_BASELINES: Mapping[str, str] = {
    "chance": "chance", "majority": "always the majority class", "backbone": "bare backbone"
}  # fmt: skip


def page_values(
    comparison: Comparison,
    decision: Decision,
    *,
    effects: pd.DataFrame,
    means: pd.DataFrame,
    summary: pd.DataFrame,
) -> dict[str, Any]:
    """Everything that the template shows; the tables are those that the functions of their names make of it."""
    metric = main_metric(comparison)
    notes = Footnotes()
    return {
        "task": comparison.task,
        "metric": metric,
        "facts": _facts(comparison, metric),
        "decision": _decision(comparison, decision),
        "scores": _scores(comparison, means, effects, metric=metric, notes=notes),
        "score_notes": [*notes.lines(), *([CONTROL_MEANS] if CONTROL in set(comparison.scores["method"]) else [])],
        "effects": _effects(effects, decision.method or comparison.subject),
        "curves": _curves(comparison, summary, metric=metric),
        "ranking": _ranking(comparison),
        "classes": _classes(comparison, decision.method or comparison.subject),
        "rows": chosen_rows(comparison, method=decision.method or comparison.subject),
        **_differing(comparison, decision.method or comparison.subject),
        "starts": frame_cells(_start_cells(starts_table(comparison))),
        "refused": frame_cells(comparison.refused[["module", "reason"]]),
        "missing": frame_cells(missing_table(comparison)),
        "settings": frame_cells(_shown_settings(comparison)),
        "command": comparison.settings.get("command", ""),
        "call": comparison.settings.get("call", ""),
        "notes": comparison.notes,
    }


def spoken(method: str) -> str:
    """A method's name for readers."""
    return str(method).replace("_", " ")


def _facts(comparison: Comparison, metric: str) -> list[str]:
    seeds = comparison.scores["seed"].nunique()
    rows = len(comparison.examples) or comparison.settings.get("test_rows")
    found = [f"{metric}{f' on {rows} test rows' if rows else ''}", f"{seeds} seed{'' if seeds == 1 else 's'}"]
    shots = comparison.settings.get("shots")
    if isinstance(shots, int):
        found.append(f"{shots} rows {'per class' if comparison.task.labels else '× 4'} to tune on")
    return [*found, *filter(None, [str(comparison.settings.get("backbone", ""))])]


def _decision(comparison: Comparison, decision: Decision) -> dict[str, Any]:
    headline = DOUBTED if decision.doubted else _HEADLINES[decision.choice]
    used = decision.choice == "use"
    which = f": {spoken(decision.method)}" if used else f": {decision.needed} would" if decision.needed else ""
    opening = f"{headline}: {named(decision.method)}. " if used else f"{headline}. "
    number = partial(signed, decimals=3)
    return {
        "choice": "undecided" if decision.doubted else decision.choice,  # the colour
        "headline": headline,
        "which": which,
        "method": spoken(decision.method),
        "gain": "" if math.isnan(decision.gain) else number(decision.gain),
        "interval": "" if math.isnan(decision.low) else f"{number(decision.low)} to {number(decision.high)}",
        "cost": capitalized(decision.cost) + "." * bool(decision.cost),
        "sentence": decision.sentence.removeprefix(opening),
        "remedy": decision.remedy or ("" if "next" in comparison.settings else _next(decision)),
        "next": comparison.settings.get("next", ""),
    }


def _next(decision: Decision) -> str:
    """What to do where the decision names nothing that is missing, and no command is known."""
    if decision.choice == "fresh":
        return "Tune a fresh module (tune), or add modules of nearer tasks to the hub."
    return f"Make it and tune it on all the rows you have: fit(task, hub, starts={decision.method!r})."


def _scores(
    comparison: Comparison, means: pd.DataFrame, effects: pd.DataFrame, *, metric: str, notes: Footnotes
) -> dict[str, Any]:
    """A panel for each stage: one line per method with its mean, interval and seeds, on one axis with the baselines."""
    dots = seed_scores(comparison)
    values = [*dots["score"], *comparison.baselines["score"].astype("float64")]
    axis, decimals = Axis.of_metric(metric, values), min(common_decimals(values), 3)
    panels: list[dict[str, Any]] = []
    for stage in reversed(STAGES):
        lines = []
        for row in means[means["stage"] == stage].to_dict("records"):
            method = str(row["method"])
            own = dots[(dots["method"] == method) & (dots["stage"] == stage)]["score"].dropna()
            line: dict[str, Any] = {"method": spoken(method), "dots": [axis.at(value) for value in own]}
            line |= _mean(row, axis=axis, decimals=decimals)
            line |= _gain(effects[effects["stage"] == stage], method, decimals=decimals)
            line["text"] += notes.mark(str(row["reason"]))
            line["calibrated"] = _calibrated(comparison, method, stage, decimals=decimals)
            lines.append(line)
        panels.append({"title": _STAGES[stage], "lines": lines})
    clipped = any(line["clipped"] for panel in panels for line in panel["lines"])
    return {"panels": panels, "axis": axis, "ticks": tick_values(axis), "clipped": clipped, "first": FIRST_LINES,
            "baselines": _baselines(comparison, axis, decimals=decimals)}  # fmt: skip


def _mean(row: Mapping[Any, Any], *, axis: Axis, decimals: int) -> dict[str, Any]:
    """A mean with its interval as positions and as text; the interval ends where the metric does."""
    mean, low, high = (float(row[name]) for name in ("score", "low", "high"))
    found: dict[str, Any] = {"mean": None, "low": None, "text": DASH, "interval": "", "clipped": False}
    if not math.isnan(mean):
        found |= {"mean": axis.at(mean), "text": fixed_text(mean, decimals)}
    if not math.isnan(low):
        ends = [fixed_text(end, decimals) for end in (max(low, axis.low), min(high, axis.high))]
        found |= {"low": axis.at(low), "high": axis.at(high), "interval": " to ".join(ends)}
        found["clipped"] = not (axis.holds(low) and axis.holds(high))
    return found


def _calibrated(comparison: Comparison, method: str, stage: str, *, decimals: int) -> str:
    """The mean score of a method without calibration, if its answers were calibrated in any seed."""
    scores = comparison.scores
    own = scores[(scores["method"] == method) & (scores["stage"] == stage)]
    without = float(own["uncalibrated"].astype("float64").mean())
    if math.isnan(without) or own["calibration"].isin(["", "none"]).all():
        return ""
    return f"{fixed_text(without, decimals)} uncalibrated"


def _gain(effects: pd.DataFrame, method: str, *, decimals: int) -> dict[str, str]:
    """The difference to scratch."""
    rows = effects[(effects["method"] == method) & (effects["other"] == SCRATCH)].to_dict("records")
    if not rows or math.isnan(rows[0]["difference"]):
        return {"gain": "", "gain_interval": ""}
    difference, low, high = (signed(float(rows[0][name]), decimals=decimals) for name in ("difference", "low", "high"))
    return {"gain": difference, "gain_interval": "" if low == DASH else f"{low} to {high}"}


def _baselines(comparison: Comparison, axis: Axis, *, decimals: int) -> list[dict[str, Any]]:
    return [
        {
            "name": str(row["name"]), "title": _BASELINES.get(str(row["name"]), str(row["name"])), "note": row["note"],
            "at": None if math.isnan(float(row["score"])) else axis.at(float(row["score"])),
            "text": fixed_text(float(row["score"]), decimals),
        }
        for row in comparison.baselines.iloc[::-1].to_dict("records")  # chance is drawn over the others
    ]  # fmt: skip


def _effects(effects: pd.DataFrame, method: str) -> dict[str, Any]:
    """What `method` was found to be against every other one, by stage, and what could have been found."""
    own = effects[effects["method"] == method]
    number = partial(signed, decimals=min(common_decimals([*own["low"], *own["high"]]), 3))
    rows: dict[str, list[dict[str, str]]] = {stage: [] for stage in STAGES}
    for row in own.to_dict("records"):
        interval = DASH if math.isnan(row["low"]) else f"{number(row['low'])} to {number(row['high'])}"
        rows[str(row["stage"])].append(
            {
                "other": spoken(str(row["other"])), "outcome": str(row["outcome"]),
                "said": _OUTCOMES[str(row["outcome"])], "difference": number(row["difference"]), "interval": interval,
                "smallest": number(row["smallest"]).removeprefix("+"), "needed": _needed(row),
            }
        )  # fmt: skip
    return {"method": spoken(method), "rows": rows, "scope": next(iter(own["scope"]), "")}


def _needed(row: Mapping[Any, Any]) -> str:
    """What would decide an undecided comparison, and what else a reader has to know."""
    counts = [
        f"{math.ceil(row[f'{what}_needed']):,} {what}"
        for what in ("seeds", "rows")
        if math.isfinite(row[f"{what}_needed"])
    ]
    decided = [f"{' or '.join(counts)} in all"] if counts else []
    return "; ".join([*decided, *filter(None, [str(row["reason"])])])


def _curves(comparison: Comparison, summary: pd.DataFrame, *, metric: str) -> dict[str, Any]:
    """A small plot for each method, with scratch behind it, of the dev score and of the dev loss."""
    table = curve_table(comparison)
    arrival = {str(row["method"]): row["steps_to_scratch"] for row in summary.to_dict("records")}
    found: dict[str, Any] = {"plots": [], "first": FIRST_PANELS, "clipped": False}
    plain = "" if comparison.settings.get("calibration", "none") == "none" else " before calibration"
    titles = (("dev_score", f"Dev {metric}{plain}, higher is better"), ("dev_loss", "Dev loss, lower is better"))
    for name, title in titles:
        known = table.dropna(subset=[name])
        if known.empty:
            continue
        axis = Axis.of_metric(metric, known[name]) if name == "dev_score" else Axis.around(known[name])
        steps = Axis(0.0, float(known["step"].max()) or 1.0, (0.0,))
        lines = {str(method): own for method, own in known.groupby("method", sort=False)}
        ends = known[name] - known[f"{name}_interval"], known[name] + known[f"{name}_interval"]
        found["clipped"] |= not all(axis.holds(value) for end in ends for value in end)
        panels = [
            {
                "method": spoken(method),
                **_line(own, name, steps=steps, axis=axis),
                "last": _last(own, name),
                "arrival": _arrival(arrival[method]) if name == "dev_score" and method != SCRATCH else "",
            }
            for method, own in lines.items()
        ]
        behind = _line(lines[SCRATCH], name, steps=steps, axis=axis)["whole"] if SCRATCH in lines else ""
        found["plots"].append(
            {"title": title, "panels": panels, "behind": behind, "ticks": tick_values(axis), "last": f"{steps.high:g}"}
        )
    return found


def _arrival(steps: float) -> str:
    """When a method has the dev score that scratch reaches at best; a median over seeds."""
    if math.isnan(steps):
        return ""
    return f"at scratch’s best {f'from step {steps:g}' if steps else 'before any tuning'}"


def _line(own: pd.DataFrame, name: str, *, steps: Axis, axis: Axis) -> dict[str, Any]:
    """The points of a line, of its dotted end where seeds have stopped, and of the band of its interval."""
    points = partial(line_points, across=steps, up=axis)
    whole, band = own[own["complete"]], own.dropna(subset=[f"{name}_interval"])
    low, high = band[name] - band[f"{name}_interval"], band[name] + band[f"{name}_interval"]
    return {
        "whole": points(whole["step"], whole[name]),
        "all": points(own["step"], own[name]) if len(whole) < len(own) else "",
        "band": f"{points(band['step'], high)} {points(band['step'][::-1], low[::-1])}" if len(band) > 1 else "",
    }


def _last(own: pd.DataFrame, name: str) -> str:
    """First and best value in words, for those who do not see the plot."""
    first, last = own.iloc[0], own.iloc[-1]
    return (
        f"{number_text(first[name], digits=3)} at step {first['step']:g}, "
        f"{number_text(last[name], digits=3)} at step {last['step']:g}"
    )


def _ranking(comparison: Comparison) -> dict[str, Any]:
    table = ranking_table(comparison)
    own = comparison.starts[comparison.starts["method"] == comparison.subject]
    most = table["weight"].max() if len(table) else math.nan
    shares = [
        None if math.isnan(weight) or not most > 0 else round(100 * weight / most, 2) for weight in table["weight"]
    ]
    table = table.assign(family=table["family"].fillna("").map(short_family))
    facts = [name for name in ("task", "family", "license") if table[name].fillna("").astype(str).any()]
    facts = [name for name in facts if not (table[name] == table["module"]).all()]
    columns = [*comparison.indicators, *facts]
    rows = [
        {
            "module": str(row["module"]), "weight": cell_text(row["weight"]), "share": share,
            "cells": [cell_text(row[name]) or DASH for name in columns],
        }
        for row, share in zip(table.head(MOST_MODULES).to_dict("records"), shares, strict=False)
    ]  # fmt: skip
    return {
        "indicator": chosen_indicator(comparison), "columns": columns, "numbers": len(comparison.indicators),
        "rows": rows, "first": FIRST_MODULES, "modules": len(table), "subject": spoken(comparison.subject),
        "effective": sorted({number_text(value, digits=3) for value in own["effective"].dropna()}),
    }  # fmt: skip


def _classes(comparison: Comparison, first: str) -> dict[str, Any] | None:
    """F1 and recall of each class after tuning, a column per method, of which `first` and scratch are the first."""
    found = class_scores(comparison)
    found = found[found["stage"] == "tuned"]
    if found.empty:
        return None
    ordered = dict.fromkeys([first, SCRATCH, *comparison.methods])
    methods = [method for method in ordered if method in set(found["method"])]
    table = found.pivot_table(index="class", columns="method", values=["f1", "recall"], sort=False, dropna=False)
    rows = found.drop_duplicates("class").set_index("class")["rows"]
    return {
        "methods": [spoken(method) for method in methods],
        "first": FIRST_CLASSES,
        "rows": [
            {
                "name": name, "rows": count,
                "cells": [{measure: fixed_text(table[measure, method][name], 2) for measure in ("f1", "recall")}
                          for method in methods],
            }
            for name, count in zip(map(str, rows.index), rows, strict=True)
        ],
    }  # fmt: skip


def _differing(comparison: Comparison, first: str) -> dict[str, Any]:
    """What each method alone has right, and how far they agree: `first`, scratch, and as many others as fit."""
    answers, right, inputs = answers_by_method(comparison)
    shown = [name for name in dict.fromkeys([first, SCRATCH, *answers]) if name in answers][:MOST_ALIKE]
    said = {spoken(name): answers[name] for name in shown}
    if len(said) < 2:
        return {"alone": [], "agreement": {"rows": [], "numbers": ()}}
    return {
        "alone": alone_values(right_alone(said, right, inputs)),
        "agreement": agreement_values(agreement(said)),
    }


def _start_cells(starts: pd.DataFrame) -> pd.DataFrame:
    titles = {
        "method": "Method", "rank": "Rank", "parameters": "Parameters", "modules": "Effective modules",
        "space": "Space", "error": "ΔW error", "tokens": "Tokens read",
        "backward": "Of them backward", "same_as": "Same start as",
    }  # fmt: skip
    return (
        starts.assign(method=starts["method"].map(spoken))
        .replace({"space": "", "same_as": ""}, DASH)
        .rename(columns=titles)
    )


def _shown_settings(comparison: Comparison) -> pd.DataFrame:
    """The settings with all their digits; the rank is that of the starts, not that of the recipe, which they ignore."""
    table = settings_table(comparison)
    table = table[~table["setting"].isin(["command", "call", "next", "test_rows_there"])]
    ranks = sorted({f"{rank:.0f}" for rank in comparison.starts["rank"].dropna()})
    if ranks:
        table = table[~table["setting"].astype(str).str.startswith(("recipe.shape", "recipe.rank", "recipe.alpha"))]
        said = pd.DataFrame({"setting": ["rank of the starts"], "value": [" and ".join(ranks)]})
        table = pd.concat([said, table], ignore_index=True)
    return table.assign(value=[value if cell_text(value) == DASH else str(value) for value in table["value"]])
