"""The verdict of a comparison in plain English: what to do, how it was before tuning, and how soon it arrives."""

import math
from collections.abc import Mapping
from typing import Any

from headstart.comparing.comparison import SCRATCH, Comparison
from headstart.comparing.decision import decide, spoken
from headstart.comparing.effects import effects
from headstart.comparing.samples import main_metric
from headstart.reports.cells import number_text
from headstart.reports.tables import summary
from headstart.showing import capitalized

__all__ = ["verdict"]

_SAID: Mapping[str, str] = {"win": "beats", "loss": "is behind", "undecided": "is not told apart from"}


def verdict(comparison: Comparison) -> str:
    """One paragraph: the decision and what would settle it; then, of the method that it names, how it stood to scratch
    before tuning and how soon it has scratch's best dev score.
    """
    seeds = comparison.scores["seed"].nunique()
    opening = f"On {comparison.task.name} ({main_metric(comparison)}, {seeds} seed{'' if seeds == 1 else 's'}):"
    decision = decide(comparison)
    method = decision.method or comparison.subject
    sentences = [opening, decision.sentence, decision.remedy, *_same_start(comparison, method)]
    sentences += [*_before_tuning(comparison, method), *_steps(comparison, method)]
    return " ".join(filter(None, sentences))


def _same_start(comparison: Comparison, method: str) -> list[str]:
    """A sentence that names the methods that begin from the same module in every seed."""
    own = comparison.starts[comparison.starts["method"] == method]
    others = comparison.starts[comparison.starts["method"] != method]
    shared = others.merge(own[["seed", "digest"]], on=["seed", "digest"])["method"].value_counts()
    same = [spoken(str(label)) for label, count in shared.items() if count == len(own)]
    return [f"{capitalized(spoken(method))} begins from the very module of {_join(same)}."] if same else []


def _before_tuning(comparison: Comparison, method: str) -> list[str]:
    """A sentence on the method against scratch before tuning, or on why they were not compared."""
    scores, table = comparison.scores, effects(comparison)
    if not {method, SCRATCH} <= set(scores[scores["stage"] == "zero-shot"]["method"]):
        return []
    before = table[(table["stage"] == "zero-shot") & (table["method"] == method) & (table["other"] == SCRATCH)]
    return [_compared(row, method) for row in before.to_dict("records")]


def _compared(row: Mapping[Any, Any], method: str) -> str:
    if row["outcome"] not in _SAID:
        return f"Before tuning, {spoken(method)} and scratch could not be compared ({row['reason']})."
    known = "no interval" if math.isnan(row["low"]) else f"95 % interval {_short(row['low'])} to {_short(row['high'])}"
    by = f" by {_short(abs(row['difference']))}" if row["outcome"] != "undecided" else ""
    seen = f"difference {_short(row['difference'])}, " if row["outcome"] == "undecided" else ""
    return f"Before tuning, {spoken(method)} {_SAID[row['outcome']]} scratch{by} ({seen}{known})."


def _steps(comparison: Comparison, method: str) -> list[str]:
    rows = {row["method"]: row for row in summary(comparison).to_dict("records")}
    mine, scratch = rows.get(method), rows.get(SCRATCH)
    if mine is None or scratch is None or mine is scratch or math.isnan(scratch["steps_to_scratch"]):
        return []
    goal = f"Scratch reaches its best dev score {_at(scratch['steps_to_scratch'])}"
    if math.isnan(mine["steps_to_scratch"]):
        return [f"{goal} (median over seeds); of {spoken(method)}, {mine['steps_to_scratch_reason']}."]
    return [f"{goal}, {spoken(method)} the same score {_at(mine['steps_to_scratch'])} (medians over seeds)."]


def _at(step: float) -> str:
    return f"at step {step:g}" if step else "before any tuning"


def _short(value: float) -> str:
    return number_text(value, digits=3)


def _join(parts: list[str]) -> str:
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}"
