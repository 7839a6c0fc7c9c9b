"""A ranking for those who blend: modules race by each indicator, and only those that may be the best have scores."""

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from headstart.backbones import BackboneLike
from headstart.events import Listener, Note
from headstart.indicators import Indicator
from headstart.indicators.engine import chosen_indicators
from headstart.ranking.race import BLENDED, Race, as_race
from headstart.ranking.rank import HubLike, Ranking, rank
from headstart.ranking.rounds import FINALIST
from headstart.tasks import TaskLike

__all__ = ["rank_finalists", "unraced_note"]


def rank_finalists(
    task: TaskLike,
    hub: HubLike,
    backbone: BackboneLike,
    *,
    indicators: Sequence[str],
    race: Race | bool,
    progress: Listener | None = None,
    **how: Any,
) -> Ranking:
    """A ranking in which modules have raced once for each indicator, and only finalists have a score by it.

    So scores can be compared: all are means over the same rows. The reason of a missing score says when the module
    left; `standings` are those of the first indicator. `race`: `True` is a race with `BLENDED` winners. An indicator
    with one value for all rows together cannot be raced by: all modules are scored by it, and a note says so. The rest
    is as in `rank`.
    """
    racing = as_race(Race(winners=BLENDED) if race is True else race)
    found: list[Ranking] = []
    for one in chosen_indicators(indicators):
        own = racing if one.by_row else None
        if racing is not None and own is None and progress:
            progress(Note(unraced_note(one)))
        ranking = rank(
            task, hub, backbone, indicators=str(one.spec), race=False if own is None else own, progress=progress, **how
        )
        found.append(_of_finalists(ranking))
    values: dict[str, tuple[float, ...]] = {}
    reasons: dict[str, dict[str, str]] = {}
    for ranking in found:
        values |= ranking.scores.values
        reasons |= ranking.scores.reasons
    tuned = next((ranking.reference for ranking in found if ranking.reference is not None), None)
    return replace(found[0], scores=replace(found[0].scores, values=values, reasons=reasons), reference=tuned)


def unraced_note(indicator: Indicator) -> str:
    """Why all modules are scored by an indicator."""
    return f"'{indicator.spec}' has one value for all rows together, so modules cannot race by it: all are scored"


def _of_finalists(ranking: Ranking) -> Ranking:
    """The ranking without the scores of modules that left."""
    if not ranking.standings:
        return ranking
    why = {
        module.name: f"{standing.stage}: {standing.why}"
        for module, standing in zip(ranking.modules, ranking.standings, strict=True)
        if standing.stage != FINALIST
    }
    scores = ranking.scores
    values = {
        spec: tuple(math.nan if name in why else value for name, value in zip(scores.names, own, strict=True))
        for spec, own in scores.values.items()
    }
    reasons = {spec: {**scores.reasons.get(spec, {}), **why} for spec in values}
    return replace(ranking, scores=replace(scores, values=values, reasons=reasons))
