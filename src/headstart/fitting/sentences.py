"""A verdict in plain English: what was decided and why, and what would help."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from headstart.comparing.comparison import SCRATCH
from headstart.comparing.decision import CONTROL, spoken
from headstart.evaluating.loss_unit import NATS, SQUARES
from headstart.showing import capitalized

__all__ = ["Grounds", "remedy", "sentence"]

MENDING = "Correct what the reasons name, and fit again."

Contrasts = Mapping[tuple[str, str, str], Mapping[Any, Any]]
"""The lines of contrasts by method, other and measure."""


@dataclass(frozen=True, eq=False)
class Grounds:
    """What a verdict rests on.

    `told`: the start that is spoken of, "" if none has a loss; `shown`: whether its losses are shown to be lower than
    those of scratch and of the random module, after the correction; `used`: whether it is used. `scores`: its own and
    that of scratch by `metric`. `rows` were answered of `available`, and at most `most` may be; `unit`: of losses.
    """

    contrasts: Contrasts
    told: str
    shown: bool
    used: bool
    metric: str
    scores: tuple[float, float]
    rows: int
    folds: int
    available: int
    most: int | None
    unit: str

    def against(self, other: str) -> Mapping[Any, Any] | None:
        """The line of its loss against another method's, if both have one."""
        row = self.contrasts.get((self.told, other, "loss"))
        return None if row is None or math.isnan(float(row["difference"])) else row

    @property
    def unshown(self) -> list[Mapping[Any, Any]]:
        """The lines of losses that are not shown to be lower."""
        rivals = [row for row in map(self.against, (SCRATCH, CONTROL)) if row is not None]
        return [row for row in rivals if row["outcome"] != "win"]


def sentence(grounds: Grounds) -> str:
    """The decision, the start's gain over scratch, its score, and how it stands to the random module."""
    told, opening = grounds.told, f"The guard chose {spoken(grounds.told if grounds.used else SCRATCH)}"
    if not told:
        return f"{opening}. No start has a loss on the held-out rows."
    against = grounds.against(SCRATCH)
    if against is None:
        reason = grounds.contrasts[told, SCRATCH, "loss"]["reason"]
        return f"{opening}. No start could be compared with it: {reason}."
    size, low, high = (_text(float(against[name])) for name in ("difference", "low", "high"))
    held = f"{grounds.rows} held-out examples" + (f", {grounds.folds} folds" if grounds.folds > 1 else "")
    interval = f"(95 % interval {low} to {high}; {held})"
    scores = [_text(score) for score in grounds.scores]
    cost = f"the right answer costs {size} {NATS} less"
    if grounds.unit == SQUARES:
        cost = f"the squared error is {size} a row less"
    against_scores = f"{scores[0]} against {scores[1]}{_difference(grounds)}"
    shown = "" if any(map(math.isnan, grounds.scores)) else f"; {grounds.metric} is {against_scores}"
    doubt = ""
    if grounds.shown:
        said = f"Tuned from it, {cost} than tuned from scratch {interval}"
        if not grounds.used:
            said = f"{capitalized(spoken(told))} is not used, although it is the best start by its loss. {said}"
            shown = f", but {grounds.metric} is lower: {against_scores}"
    elif against["outcome"] == "win":
        said = f"{capitalized(spoken(told))}, the best start by its loss, is better than scratch: {cost} {interval}"
        doubt = "What it gains may be no merit of the hub's modules."
    else:
        said = (
            f"No start is shown to be better: the gain of {spoken(told)}, the best start by its loss, over scratch is "
            f"{size} {grounds.unit} {interval}"
        )
    return " ".join(filter(None, [f"{opening}.", f"{said}{shown}.", _control(grounds), doubt]))


def _difference(grounds: Grounds) -> str:
    """The difference of the two scores with its interval, where that is known."""
    row = grounds.contrasts.get((grounds.told, SCRATCH, grounds.metric), {})
    size, low, high = (float(row.get(name, math.nan)) for name in ("difference", "low", "high"))
    if any(map(math.isnan, (size, low, high))):
        return ""
    return f" ({_text(size, signed=True)}; {_text(low)} to {_text(high)})"


def _control(grounds: Grounds) -> str:
    """How a start stands to the random module of the same size."""
    row = grounds.against(CONTROL)
    if row is None:
        return ""
    said = {"win": "better than", "loss": "worse than", "undecided": "not told apart from"}[str(row["outcome"])]
    size, p = _text(float(row["difference"]), signed=True), float(row["adjusted"])
    tested = "" if math.isnan(p) else "; p < 0.01" if p < 0.01 else f"; p = {p:.2f}"
    return f"It is {said} a random module of the same size ({size} {grounds.unit}{tested})."


def remedy(grounds: Grounds) -> str:
    """What would help where no start is used; "" where one is."""
    if grounds.used:
        return ""
    if not grounds.told or grounds.against(SCRATCH) is None:
        return MENDING
    unshown = grounds.unshown
    if not unshown:
        return "Tuned for longer, it may answer as many rightly; as it is, scratch is the safer choice."
    smallest = max((float(row["smallest"]) for row in unshown if not math.isnan(row["smallest"])), default=math.nan)
    if math.isnan(smallest):
        return f"{capitalized(str(unshown[0]['reason']))}."
    over = " over a random module" if {row["other"] for row in unshown} == {CONTROL} else ""
    enough = f"{_text(smallest)} {grounds.unit} or more"
    shown = f"With these {grounds.rows} examples, a gain{over} shows in 80 of 100 cases if it is {enough}"
    if any(float(row["difference"]) <= 0 for row in unshown):
        return f"{shown}, so one like that would probably have been seen. Modules of nearer tasks may give one."
    needed = max(float(row["rows_needed"]) for row in unshown)
    if any(math.isnan(row["rows_needed"]) for row in unshown):
        if any(float(row["tunings"]) > 0.5 for row in unshown):
            folds = 2 * grounds.folds
            more = f"more folds (--folds {folds}, folds={folds} in Python, in about twice the time)"
            why = f"mostly because tunings differ: {more} would help, more examples would not."
            return f"{shown}, {why}"
        return f"{shown}, and no number of examples up to 100,000 would show one as small as this."
    return f"{shown}; {_more(grounds, needed)} would show one like this, in as many cases."


def _more(grounds: Grounds, needed: float) -> str:
    """How many examples, and that they are to be answered, where that is not usual."""
    if needed <= grounds.available:
        return f"answering {needed:,.0f} of all {grounds.available:,} ({_held_out(needed)})"
    capped = grounds.most is not None and needed > grounds.most
    return f"about {needed:,.0f} examples in all" + (f", all answered ({_held_out(needed)})," if capped else "")


def _held_out(needed: float) -> str:
    """How that is said in Python and on the command line."""
    return f"held_out={needed:.0f}, --held-out {needed:.0f}"


def _text(value: float, *, signed: bool = False) -> str:
    return (f"{value:+.3f}" if signed else f"{value:.3f}").replace("-", "−")
