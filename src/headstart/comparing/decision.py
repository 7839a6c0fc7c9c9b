"""What a comparison advises: use a start, train fresh, or go on measuring."""

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from headstart.comparing.comparison import ENSEMBLE, SCRATCH, Comparison
from headstart.comparing.effects import effects, mean_scores
from headstart.comparing.samples import main_metric
from headstart.showing import capitalized, plural

__all__ = ["CONTROL", "CONTROL_MEANS", "SMALL", "SPOKEN", "Choice", "Decision", "ahead", "decide", "spoken"]

Choice = Literal["use", "fresh", "undecided"]
Row = Mapping[Any, Any]
Pairs = Mapping[tuple[str, str], Row]

SMALL = 0.02
"""A gain that is certainly below this, two points of a metric from 0 to 1, is not worth a hub."""

CONTROL = "random"
"""The method that begins from noise of the hub's size: what it gains is no merit of the hub's modules."""

CONTROL_MEANS = (
    "random: a module of random numbers with the norms of the hub's modules. What it gains is no merit of theirs; a "
    "start is to be better than this, too."
)
"""What readers of a table with the control are told."""

SPOKEN = {
    SCRATCH: "scratch", "random": "the random module", "average": "the average",
    "best_single": "the best single module", "ensemble": "the ensemble",
}  # fmt: skip
"""What sentences call the usual methods."""


USE, DOUBTED = "Use this start", "Better than training fresh"
"""How the sentence begins that names a start: the second where a random module may do as much."""

TOLD = {"win": "beats", "loss": "is behind", "undecided": "is not told apart from"}
"""What is said of two methods, by outcome."""


@dataclass(frozen=True)
class Decision:
    """What to do, and why.

    Attributes:
        choice: "use" a start, train "fresh", or "undecided".
        method: the start to use, else the best one that does not lose to the random module; "" if nothing was measured.
        gain: its mean test score less that of scratch, after tuning, with `low` and `high` of the 95 % interval.
        cost: what tuning took, and what the road to it read; "" where it is not known.
        sentence: all of it in plain English.
        remedy: what would decide it; "" where it is decided.
        doubted: whether a start is better than scratch, but not shown to be better than a random module.
        needed: of that, the counts alone, as "3 more seeds or 400 more test rows"; "" where they are not known.
        seeds_needed, rows_needed: how many it would take in all, NaN where that is decided or not known.
    """

    choice: Choice
    method: str
    gain: float
    low: float
    high: float
    cost: str
    sentence: str
    remedy: str
    needed: str = ""
    doubted: bool = False
    seeds_needed: float = math.nan
    rows_needed: float = math.nan


def spoken(method: str) -> str:
    """What a sentence calls a method: those that users name are quoted."""
    return SPOKEN.get(method, f"'{method}'")


def ahead(comparison: Comparison, stage: str = "tuned") -> str:
    """The method with the highest mean test score at a stage, scratch apart; "" if none has a score."""
    means = {
        str(row["method"]): float(row["score"])
        for row in mean_scores(comparison).to_dict("records")
        if row["stage"] == stage and row["method"] != SCRATCH and not math.isnan(row["score"])
    }
    return max(means, key=lambda method: means[method], default="")


def decide(comparison: Comparison) -> Decision:
    """Which start to use, from the scores after tuning.

    1. "use": of the methods that win against scratch and do not lose to the random module, the one that gains most. The
       random module itself is no start to use.
    2. "fresh": all methods lose to the random module, or the 95 % interval of every gain over scratch ends below
       `SMALL`.
    3. "undecided" otherwise, with the seeds or rows that would show the gain of the best method.

    Whichever method is ahead is named, and compared with the random module, the average and the best single module too.
    A gain that a random module may have as well is said not to show that the hub helps.
    """
    pairs = _pairs(comparison)
    gains = {method: row for (method, other), row in pairs.items() if other == SCRATCH}
    leader, controls = ahead(comparison), _made_by(comparison, CONTROL)
    if not gains.keys() - controls:
        return _nothing(comparison, leader, controls)
    usable = [
        name
        for name in gains
        if name not in controls and not any(_outcome(pairs, name, control) == "loss" for control in controls)
    ]
    winners = [name for name in usable if gains[name]["outcome"] == "win"]
    best = max(
        winners or usable or ([leader] if leader in gains else gains), key=lambda name: float(gains[name]["difference"])
    )
    row, cost = gains[best], _cost(comparison, best)
    gain = _gain(comparison, row, leads=best == leader)
    others = [leader, *controls, *_made_by(comparison, "average"), *_made_by(comparison, "best_single")]
    larger = _larger(comparison, best)
    if winners:
        doubts = _doubts(pairs, best, controls)
        others = [other for other in others if not (doubts and other in controls)]
        opening = f"{DOUBTED if doubts else USE}: {spoken(best)}."
        parts = [opening, gain, *doubts, *_beside(pairs, best, others), *larger]
        return replace(_decision("use", row, parts, cost=cost), doubted=bool(doubts))
    fresh = "Train fresh: the hub has nothing for this task."
    if not usable:
        return _decision("fresh", row, [fresh, "Every start loses to the random module.", gain], cost=cost)
    if all(each["high"] < SMALL for each in gains.values()):
        small = f"No method gains as much as {SMALL:g} {main_metric(comparison)} over scratch."
        return _decision("fresh", row, [fresh, small, gain], cost=cost)
    parts = ["Cannot tell yet.", gain, *_beside(pairs, best, others), *larger]
    remedy = _remedy(row, comparison.settings.get("test_rows_there", math.inf))
    found = _decision("undecided", row, parts, cost=cost, remedy=remedy, needed=_needed(row))
    return replace(found, seeds_needed=float(row["seeds_needed"]), rows_needed=float(row["rows_needed"]))


def _made_by(comparison: Comparison, name: str) -> tuple[str, ...]:
    """The labels of a method, whatever they are."""
    starts = comparison.starts
    return tuple(dict.fromkeys([name, *map(str, starts.loc[starts["made_by"] == name, "method"])]))


def _pairs(comparison: Comparison) -> Pairs:
    """What was measured after tuning, by (method, other)."""
    table = effects(comparison)
    measured = table[(table["stage"] == "tuned") & (table["outcome"] != "not measured")]
    return {(str(row["method"]), str(row["other"])): row for row in measured.to_dict("records")}


def _nothing(comparison: Comparison, leader: str, controls: Collection[str]) -> Decision:
    """What is said where no start has a score beside that of scratch, with the reasons that are known."""
    starts = [method for method in comparison.methods if method != SCRATCH and method not in controls]
    run = set(comparison.scores["method"])
    if not run.intersection(starts):
        sentence, remedy = "no start was tuned and tested", "compare more methods than scratch"
        if run.intersection(controls):
            sentence, remedy = "no start was made of the hub's modules", f"compare '{ENSEMBLE}' or 'average' too"
    elif SCRATCH not in run:
        sentence, remedy = "nothing was compared with scratch", f"compare with the method '{SCRATCH}' too"
    else:
        table = effects(comparison)
        table = table[(table["stage"] == "tuned") & (table["other"] == SCRATCH) & table["method"].isin(starts)]
        reasons = zip(table["method"], table["reason"], strict=True)
        known = "; ".join(f"{spoken(method)}: {reason}" for method, reason in reasons if reason and method in run)
        sentence = f"no start has a score to compare with that of scratch ({known})"
        remedy = "correct what the reasons name, and compare again"
    nan = math.nan
    return Decision("undecided", leader, nan, nan, nan, "", f"Cannot tell: {sentence}.", f"{capitalized(remedy)}.")


def _decision(choice: Choice, row: Row, texts: list[str], *, cost: str, remedy: str = "", needed: str = "") -> Decision:
    difference, low, high = (float(row[name]) for name in ("difference", "low", "high"))
    return Decision(choice, str(row["method"]), difference, low, high, cost, " ".join(texts), remedy, needed)


def _gain(comparison: Comparison, row: Row, *, leads: bool) -> str:
    """How much a method gains over scratch, with the interval and what it is about."""
    seeds = "this seed" if row["seeds"] == 1 else f"these {row['seeds']} seeds"
    over = f"over {seeds}" if row["scope"] == "over these seeds" else f"from {row['seeds']} seeds"
    interval = f"95 % interval {_text(row['low'])} to {_text(row['high'])}, {over} and {row['rows']:,} rows"
    known = "no interval" if math.isnan(row["low"]) else interval
    size, behind = abs(row["difference"]), row["difference"] < 0
    name = capitalized(spoken(row["method"]))
    name += "" if not leads else ", the best of the starts," if behind else ", the method ahead,"
    direction = "below" if behind else "above"
    if size == 0:
        return f"{name} is level with scratch after tuning ({known})."
    return f"{name} is {_text(size)} {main_metric(comparison)} {direction} scratch after tuning ({known})."


def _doubts(pairs: Pairs, method: str, controls: Sequence[str]) -> list[str]:
    """A sentence if the gain may not come from the hub's modules, but from any start of their size."""
    compared = [control for control in controls if _outcome(pairs, method, control) in TOLD]
    if not compared:
        return ["It was not compared with a random module, so that the hub helps is not shown."]
    # A method that loses to one of them is no start to use.
    doubted = [control for control in compared if _outcome(pairs, method, control) == "undecided"]
    if not doubted:
        return []
    told = _listed([_against(control, pairs[method, control]) for control in doubted])
    return [f"It is not told apart from {told}, a start of equal size, so that the hub's modules help is not shown."]


def _beside(pairs: Pairs, method: str, others: Sequence[str]) -> list[str]:
    """How the method stands to others, such as simpler ones, in one sentence."""
    told: dict[str, list[str]] = {outcome: [] for outcome in TOLD}
    for other in dict.fromkeys(others):
        outcome = _outcome(pairs, method, other)
        if outcome in told:
            told[outcome].append(_against(other, pairs[method, other]))
    parts = [f"{verb} {_listed(told[outcome])}" for outcome, verb in TOLD.items() if told[outcome]]
    return [f"It {'; it '.join(parts)}."] if parts else []


def _against(other: str, row: Row) -> str:
    return f"{spoken(other)} ({'+' if row['difference'] > 0 else ''}{_text(row['difference'])})"


def _listed(texts: Sequence[str]) -> str:
    """The texts as a sentence lists them: "a, b and c"."""
    *rest, last = texts
    return f"{', '.join(rest)} and {last}" if rest else last


def _larger(comparison: Comparison, method: str) -> list[str]:
    """A sentence if the method tunes more parameters than scratch, which may be what it gains by."""
    sizes = comparison.starts.groupby("method")["parameters"].mean()
    mine, scratch = sizes.get(method, math.nan), sizes.get(SCRATCH, math.nan)
    if not mine > scratch:
        return []
    return [f"It tunes {mine / scratch:.1f} times as many parameters as scratch, so part of this may be its size."]


def _outcome(pairs: Pairs, method: str, other: str) -> str:
    return str(pairs[method, other]["outcome"]) if (method, other) in pairs else "not measured"


def _remedy(row: Row, there: float) -> str:
    """What would show a difference like the one seen; `there`: how many test rows the task has."""
    if math.isnan(row["low"]):
        return f"{capitalized(str(row['reason']))}."
    needed = _needed(row)
    if not needed:
        return "Neither 100 seeds nor 100,000 test rows would show a difference as small as the one seen."
    few = f" The task has {there:,} test rows in all: add some." if row["rows_needed"] > there else ""
    return f"{capitalized(needed)} would show a difference like this one, in 80 of 100 studies.{few}"


def _needed(row: Row) -> str:
    """How many more seeds or rows would show it; "" if neither is known."""
    return " or ".join(
        plural(int(row[f"{what}_needed"] - row[what]), f"more {noun}")
        for what, noun in (("seeds", "seed"), ("rows", "test row"))
        if not math.isnan(row[f"{what}_needed"])
    )


def _cost(comparison: Comparison, method: str) -> str:
    """How long the tuning of one seed took and how many tokens its road read, beside those of scratch."""
    tuned = comparison.scores[comparison.scores["stage"] == "tuned"]
    means = tuned.groupby("method")[["seconds", "forward_tokens", "backward_tokens"]].mean()
    if not {method, SCRATCH} <= set(means.index) or means.loc[[method, SCRATCH], "seconds"].isna().any():
        return ""
    mine, scratch = means.loc[method], means.loc[SCRATCH]
    seconds = f"tuning took {mine['seconds']:.3g} s a seed, {scratch['seconds']:.3g} s from scratch"
    if means.loc[[method, SCRATCH]].isna().any(axis=None):
        return seconds
    own, other = (
        f"{row['forward_tokens']:,.0f} tokens forward and {row['backward_tokens']:,.0f} back" for row in (mine, scratch)
    )
    return f"{seconds}; with the scores of the hub's modules it read {own} a seed, from scratch {other}"


def _text(value: float) -> str:
    return f"{value:.3f}".replace("-", "−")
