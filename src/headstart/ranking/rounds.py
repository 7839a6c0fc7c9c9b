"""The rounds of a race as they are run: which rows come when, and what is said of a module that left."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from headstart.errors import SettingError
from headstart.indicators import INDICATORS, Indicator
from headstart.indicators.table import COLUMNS, WHOLE, ScoreTable
from headstart.indicators.unit import ScoreUnit
from headstart.ranking.race import Left, Race, run_race
from headstart.ranking.scorer import Scorer
from headstart.showing import cut, plural
from headstart.tasks import Example
from headstart.tasks.example import seeded_order

__all__ = ["FINALIST", "RETRIEVED_OUT", "Standing", "by_example", "race_rounds", "reading_order", "require_rows"]


FINALIST, RETRIEVED_OUT = "finalist", "retrieved out"


@dataclass(frozen=True)
class Standing:
    """How far one module came.

    `stage` is "retrieved out", "left in round k" or "finalist"; `rows`, how many it has read; `why`, for people, what
    it left for; `order`, by which modules sort: those that went further are higher.
    """

    stage: str
    rows: int
    why: str = ""
    order: int = 0


def reading_order(examples: Sequence[Example], *, seed: int) -> list[int]:
    """The order in which a race reads: random, but every answer comes up as evenly as the rows allow.

    So a module that always gives the same answer is not ahead because a round has more rows of it.
    """
    order = seeded_order(examples, purpose="race", seed=seed)
    answers = [examples[index].target for index in order]
    counts = {answer: answers.count(answer) for answer in answers}
    seen = dict.fromkeys(counts, 0)
    when = []
    for answer in answers:
        when.append((seen[answer] + 0.5) / counts[answer])
        seen[answer] += 1
    return [order[index] for index in sorted(range(len(order)), key=when.__getitem__)]


def require_rows(indicators: Sequence[Indicator]) -> None:
    """Raise `SettingError` unless every indicator has a value for each row, which a race needs."""
    whole = next((one for one in indicators if not one.by_row), None)
    if whole is not None:
        raise _no_rows(str(whole.spec))


def _no_rows(spec: str) -> SettingError:
    known = [name for name, family in INDICATORS.items() if family.by_row]
    return SettingError(
        f"'{spec}' has one value for all rows together, none for each row, so modules cannot race by it; "
        f"race by: {', '.join(known)}"
    )


def by_example(table: ScoreTable, indicator: str) -> NDArray[np.float64]:
    """The values of the table's modules on its examples, (modules, examples); NaN where there is none.

    Raises `SettingError` if the indicator has values for all examples together.
    """
    rows = table.rows[(table.rows["indicator"] == indicator) & (table.rows["part"] == WHOLE)]
    if (rows["value"].notna() & (rows["example"] < 0)).any():
        raise _no_rows(indicator)
    wide = rows.pivot(index="module", columns="example", values="value")
    return wide.reindex(index=list(table.modules), columns=range(table.examples)).to_numpy(dtype=np.float64)


def race_rounds(
    scorer: Scorer, places: Sequence[int], examples: Sequence[Example], indicators: Sequence[Indicator], race: Race
) -> tuple[list[Standing], ScoreTable]:
    """Race the modules at these places by the first indicator; the table holds what was read, by all of them."""
    ordered = [examples[index] for index in reading_order(examples, seed=scorer.seed)]
    tables: list[ScoreTable] = []

    def read(members: Sequence[int], rows: slice) -> NDArray[np.float64]:
        here = [places[index] for index in members]
        scorer.say(
            f"round {len(tables) + 1}: {plural(len(here), 'module')} on rows {rows.start + 1} to {rows.stop} "
            f"of {len(ordered)}"
        )

        def later() -> list[ScoreUnit]:
            rest = ordered[rows.stop :]
            return list(scorer.plan(here, indicators, rest).units.values()) if rest else []

        tables.append(scorer.table(here, indicators, ordered[rows], later=later))
        return by_example(tables[-1], tables[-1].indicators[0])

    costs = scorer.lengths(ordered)
    raced = run_race(read, modules=len(places), rows=len(ordered), race=race, costs=costs)
    names = [scorer.modules[place].name for place in places]
    standings = [
        _standing(left, rows, names, last=len(raced.ends)) for left, rows in zip(raced.left, raced.rows, strict=True)
    ]
    return standings, _end_to_end(tables, names)


def _end_to_end(tables: Sequence[ScoreTable], modules: Sequence[str]) -> ScoreTable:
    """One table of several rounds, whose examples follow each other."""
    frames, before = [], 0
    for table in tables:
        example = table.rows["example"]
        frames.append(table.rows.assign(example=example.where(example < 0, example + before)))
        before += table.examples
    rows = pd.concat(frames, ignore_index=True).astype(COLUMNS)
    return ScoreTable(rows, tuple(modules), tables[0].indicators, before, sum(table.tokens for table in tables))


def _standing(left: Left | None, rows: int, names: Sequence[str], *, last: int) -> Standing:
    """What became of one module, in words."""
    if left is None:
        return Standing(FINALIST, rows, order=last + 1)
    stage = f"left in round {left.round}"
    if left.leader is None:
        return Standing(stage, rows, "it has no value", order=left.round)
    leader, gap = cut(names[left.leader]), f"{left.behind:.3g} ± {left.margin:.2g}"
    why = {
        "behind": f"behind {leader} by {gap} a row",
        "tied": f"tied with {leader}: behind by {gap} a row",
        "budget": f"the budget lasts for fewer: behind {leader} by {gap} a row",
    }[left.why]
    return Standing(stage, rows, why, order=left.round)
