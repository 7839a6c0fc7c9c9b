"""Every two methods of a comparison against each other: a win, a loss, or undecided, and what would decide it."""

import math
from collections.abc import Iterator, Sequence
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
import pandas as pd

from headstart.comparing.comparison import SCRATCH, STAGES, Comparison
from headstart.comparing.samples import Made, Sample, Samples, made_of, samples
from headstart.statistics.differences import LEVEL, Difference, difference
from headstart.statistics.holm import holm

__all__ = ["COLUMNS", "effects", "mean_scores"]

COLUMNS = (
    "stage", "method", "other", "difference", "low", "high", "outcome", "smallest", "seeds_needed", "rows_needed", "p",
    "adjusted", "scope", "seeds", "rows", "reason",
)  # fmt: skip
ALPHA = 1 - LEVEL
_NOTHING = Sample({}, {}, {})


def effects(comparison: Comparison) -> pd.DataFrame:
    """Every two methods against each other, before and after tuning, on the same rows and seeds, both ways round.

    Columns: `stage`; `method` and `other`; `difference`, the mean over seeds of method − other, with the ends `low`
    and `high` of its 95 % interval; `outcome`, "win" or "loss" only if p after Holm's correction is at most 0.05, else
    "undecided", or "not measured"; `smallest`, the difference that such a study shows in 80 of 100 cases; and how
    many seeds (up to 100) or rows (up to 100,000) would show the difference seen in as many (`seeds_needed`,
    `rows_needed`; NaN where it is decided, or where so many would not). `p` is that of one comparison alone, `adjusted`
    after the correction: over a stage's comparisons with scratch, and over those of every two others.
    `scope` is "over seeds" from 6 seeds on, else "over these seeds"; `seeds` and `rows` are how many there were, and
    `reason` says what a reader has to know besides.

    The interval is that of one comparison alone. A win or a loss never has 0 in it; where it leaves out 0 and the
    outcome is undecided, the reason says that the correction is why.
    """
    return made_of(comparison, _MADE, _effects).copy()


_MADE: Made[pd.DataFrame] = WeakKeyDictionary()


def _effects(comparison: Comparison) -> pd.DataFrame:
    drawn = samples(comparison)
    rows: list[dict[str, Any]] = []
    for stage in STAGES:
        for family in _families(comparison):
            found = _family(comparison, drawn, stage, family)
            rows += [*found, *map(_turned, found)]
    return pd.DataFrame(rows, columns=list(COLUMNS))


def mean_scores(comparison: Comparison) -> pd.DataFrame:
    """The mean test score of every method at every stage, with the ends of its 95 % interval over rows and seeds.

    Columns: stage, method, score, low, high, scope, seeds, rows, reason.
    """
    drawn = samples(comparison)
    rows = []
    for stage in STAGES:
        for method in comparison.methods:
            sample = drawn.of.get((stage, method))
            found, reason = _compared(drawn, sample or _NOTHING, None)
            reason = _joined(reason if sample else f"{method} was not run", _missing(method, sample))
            low, high = found.interval() if found else (math.nan, math.nan)
            rows.append(
                {"stage": stage, "method": method, "score": found.mean if found else math.nan, "low": low, "high": high,
                 "scope": _scope(found), "seeds": found.seeds if found else 0, "rows": drawn.rows, "reason": reason}
            )  # fmt: skip
    return pd.DataFrame(rows)


def _families(comparison: Comparison) -> Iterator[list[tuple[str, str]]]:
    """The pairs that are corrected together: all with scratch; then the others among themselves."""
    others = [method for method in comparison.methods if method != SCRATCH]
    if SCRATCH in comparison.methods:
        yield [(method, SCRATCH) for method in others]
    yield [(method, other) for place, method in enumerate(others) for other in others[:place]]


def _family(
    comparison: Comparison, drawn: Samples, stage: str, pairs: Sequence[tuple[str, str]]
) -> list[dict[str, Any]]:
    """The rows of comparisons that are corrected together."""
    found: list[tuple[Difference | None, str]] = []
    for method, other in pairs:
        mine, theirs = (drawn.of.get((stage, name)) for name in (method, other))
        if mine is None or theirs is None:
            found.append((None, f"{other if mine else method} was not run"))
            continue
        effect, reason = _compared(drawn, mine, theirs)
        if _same_start(comparison, method, other):
            effect, reason = None, "both begin from the very same module"
        found.append((effect, _joined(reason, _missing(method, mine), _missing(other, theirs))))
    adjusted = holm([effect.p if effect else math.nan for effect, _ in found])
    several = sum(not math.isnan(p) for p in adjusted)
    return [
        {"stage": stage, "method": method, "other": other, "rows": drawn.rows}
        | _row(effect, p, reason, several=several, rows=drawn.rows)
        for (method, other), (effect, reason), p in zip(pairs, found, adjusted, strict=True)
    ]


def _turned(row: dict[str, Any]) -> dict[str, Any]:
    """The same comparison the other way round."""
    return row | {
        "method": row["other"], "other": row["method"], "difference": 0.0 - row["difference"],
        "low": 0.0 - row["high"], "high": 0.0 - row["low"],
        "outcome": {"win": "loss", "loss": "win"}.get(row["outcome"], row["outcome"]),
    }  # fmt: skip


def _row(effect: Difference | None, adjusted: float, reason: str, *, several: int, rows: int) -> dict[str, Any]:
    """What is said of one comparison, of `several` that are corrected together."""
    if effect is None:
        nothing = dict.fromkeys(("difference", "low", "high", "smallest", "p", "seeds_needed", "rows_needed"), math.nan)
        return {**nothing, "adjusted": math.nan, "outcome": "not measured", "scope": "", "seeds": 0, "reason": reason}
    decided = adjusted <= ALPHA
    if effect.p <= ALPHA and not decided:
        reason = _joined(f"the interval leaves out 0, but not after the correction for {several} comparisons", reason)
    low, high = effect.interval()
    alpha = ALPHA / max(1, several)
    groups = math.nan if decided else effect.groups_needed(alpha)
    return {
        "difference": effect.mean, "low": low, "high": high,
        "outcome": ("win" if effect.mean > 0 else "loss") if decided else "undecided",
        "smallest": effect.smallest(alpha), "p": effect.p, "adjusted": adjusted,
        "seeds_needed": math.nan if decided else effect.seeds_needed(alpha),
        "rows_needed": math.nan if math.isnan(groups) else math.ceil(groups * rows / effect.groups),
        "scope": _scope(effect), "seeds": effect.seeds, "reason": reason,
    }  # fmt: skip


def _compared(drawn: Samples, mine: Sample, theirs: Sample | None) -> tuple[Difference | None, str]:
    """The mean of mine − theirs over the seeds that have both, or of mine alone, and what there is to say of it."""
    seeds = [seed for seed in mine.score if theirs is None or seed in theirs.score]
    if not seeds:
        return None, "no seed has both scores" if theirs else "no score"
    observed = np.array([mine.score[seed] - (theirs.score[seed] if theirs else 0.0) for seed in seeds])
    if not np.isfinite(observed).all():
        return None, "a score is infinite"
    known = all(seed in mine.drawn and (theirs is None or seed in theirs.drawn) for seed in seeds)
    again = np.empty((len(seeds), 0))
    if known:
        again = np.stack([mine.drawn[seed] - (theirs.drawn[seed] if theirs else 0.0) for seed in seeds])
    found = difference(observed, again, groups=drawn.groups, rows=drawn.rows, counted=drawn.counted)
    if theirs is not None and known and not found.reason and not again.any() and not observed.any():
        return found, "both answered every row equally well"
    return found, drawn.problem or found.reason


def _same_start(comparison: Comparison, method: str, other: str) -> bool:
    """Whether both begin from the same module on all seeds of either."""
    starts = comparison.starts
    mine, theirs = (starts[starts["method"] == name].set_index("seed")["digest"].to_dict() for name in (method, other))
    return bool(mine) and mine == theirs


def _scope(found: Difference | None) -> str:
    if found is None:
        return ""
    return "over seeds" if found.over_seeds else "over these seeds"


def _missing(method: str, sample: Sample | None) -> str:
    """The seeds without a score, with each reason given once."""
    seeds: dict[str, list[str]] = {}
    for seed, reason in (sample.reasons if sample else {}).items():
        seeds.setdefault(reason or f"no score for {method}", []).append(str(seed))
    return "; ".join(f"seed{'s' if len(own) > 1 else ''} {', '.join(own)}: {why}" for why, own in seeds.items())


def _joined(*parts: str) -> str:
    return "; ".join(dict.fromkeys(filter(None, parts)))
