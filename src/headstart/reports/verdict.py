"""The verdict of a comparison in plain English; it claims a difference only where the paired interval excludes 0."""

import math
from collections.abc import Mapping
from typing import Any

import pandas as pd

from headstart.comparing.comparison import SCRATCH, Comparison
from headstart.reports.cells import number_text
from headstart.reports.tables import differences, main_metric, summary

__all__ = ["verdict"]

_SPOKEN: Mapping[str, str] = {
    "random": "the random module",
    "average": "the average",
    "best_single": "the best single module",
    "ensemble": "the ensemble",
}
_WHEN: Mapping[str, str] = {"zero-shot": "Before tuning", "tuned": "After tuning"}


def verdict(comparison: Comparison) -> str:
    """One paragraph: whether the comparison's subject beat each other method, before and after tuning, and how soon.

    It says "beats" and "is behind" only if the paired 95 % interval excludes 0; otherwise it says that no difference is
    shown, with the interval or the reason why there is none.
    """
    seeds = comparison.scores["seed"].nunique()
    opening = f"On {comparison.task.name} ({main_metric(comparison)}, {seeds} seed{'' if seeds == 1 else 's'}):"
    stages = differences(comparison).groupby("stage", sort=False)
    subject = _spoken(comparison.subject)
    sentences = [_stage_sentence(str(stage), rows, subject=subject) for stage, rows in stages]
    same = _same_sentence(comparison)
    return " ".join([opening, *same, *sentences, *_steps_sentence(summary(comparison), comparison.subject)])


def _same_sentence(comparison: Comparison) -> list[str]:
    """A sentence that names the methods that begin from the same module as the subject in every seed."""
    own = comparison.starts[comparison.starts["method"] == comparison.subject]
    others = comparison.starts[comparison.starts["method"] != comparison.subject]
    shared = others.merge(own[["seed", "digest"]], on=["seed", "digest"])["method"].value_counts()
    same = [_spoken(label) for label, count in shared.items() if count == len(own)]
    return [f"{_capital(_spoken(comparison.subject))} begins from the very module of {_join(same)}."] if same else []


def _stage_sentence(stage: str, rows: pd.DataFrame, *, subject: str) -> str:
    said = {str(outcome): _clauses(str(outcome), own) for outcome, own in rows.groupby("outcome")}
    claims = []
    if better := said.get("better"):
        claims.append(f"{subject} beats {_join(better)}")
    if worse := said.get("worse"):
        claims.append(f"{'it' if claims else subject} is behind {_join(worse)}")
    if level := said.get("no difference shown"):
        claims.append(f"no difference shown between {'it' if claims else subject} and {_join(level)}")
    if unknown := said.get("not measured"):
        claims.append(f"{'it' if claims else subject} could not be compared with {_join(unknown)}")
    return f"{_WHEN[stage]}, {'; '.join(claims)}."


def _clauses(outcome: str, rows: pd.DataFrame) -> list[str]:
    """One clause for each other method; methods that were not measured share one clause per reason."""
    if outcome != "not measured":
        return [_clause(row) for row in rows.to_dict("records")]
    alike = rows.groupby("reason", sort=False)["other"]
    return [f"{_join([_spoken(other) for other in others])} ({reason})" for reason, others in alike]


def _clause(row: Mapping[Any, Any]) -> str:
    other = _spoken(row["other"])
    if math.isnan(row["interval"]):
        return f"{other} (mean difference {_short(row['difference'])}; no interval: {row['reason']})"
    interval = f"interval {_short(row['low'])} to {_short(row['high'])}"
    few = f"; {row['reason']}" if row["reason"] else ""
    if row["outcome"] == "no difference shown":
        return f"{other} ({interval}{few})"
    return f"{other} by {_short(abs(row['difference']))} (95 % {interval}{few})"


def _steps_sentence(table: pd.DataFrame, subject: str) -> list[str]:
    rows = {row["method"]: row for row in table.to_dict("records")}
    mine, scratch = rows.get(subject), rows.get(SCRATCH)
    if mine is None or scratch is None or mine is scratch or math.isnan(scratch["steps_to_scratch"]):
        return []
    goal = f"Scratch reaches its best dev score {_at(scratch['steps_to_scratch'])}"
    if math.isnan(mine["steps_to_scratch"]):
        return [f"{goal} (median over seeds); of {_spoken(subject)}, {mine['steps_to_scratch_reason']}."]
    return [f"{goal}, {_spoken(subject)} the same score {_at(mine['steps_to_scratch'])} (medians over seeds)."]


def _at(step: float) -> str:
    return f"at step {step:g}" if step else "before any tuning"


def _short(value: float) -> str:
    return number_text(value, digits=3)


def _spoken(method: object) -> str:
    return _SPOKEN.get(str(method), str(method))


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]


def _join(parts: list[str]) -> str:
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}"
