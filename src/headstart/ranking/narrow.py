"""Narrowing a hub down: modules are retrieved by cheap lists, and raced, before all rows are read."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from headstart.indicators import Indicator
from headstart.indicators.engine import check_request, chosen_indicators
from headstart.indicators.table import Scores, ScoreTable
from headstart.indicators.unit import ScoreUnit
from headstart.kinds import AnyModule, Module
from headstart.ranking.race import Race
from headstart.ranking.retrieve import Retrieval, joined
from headstart.ranking.rounds import FINALIST, RETRIEVED_OUT, Standing, race_rounds
from headstart.ranking.scorer import Scorer, passes
from headstart.ranking.scoring import commonest, needs_reference
from headstart.showing import plural
from headstart.tasks import Example, Task
from headstart.tuning.unit import TuneUnit

__all__ = ["Narrowed", "Spent", "narrow", "usual_list"]

USUAL, OF_LORA = "tupate", "similarity:embedding=gram"
"""What modules are retrieved by if nothing is said, the second where the reference module is LoRA: the best of the
lists that were measured (docs/racing.md)."""
UNCOMPARED = "arrow"
"""What they are retrieved by where there can be no reference module: one pass of the bare backbone serves them all."""


@dataclass(frozen=True)
class Spent:
    """Tokens that the backbone reads: `computed` by retrieval and race, and `full`, by scoring all modules on all rows.

    Both count inputs and targets, and the steps for which an indicator tunes every module. The tuning of a reference
    module counts in `computed`, and in `full` too if the scores need it. What was in the store counts as if it were
    computed.
    """

    computed: int
    full: int

    @property
    def share(self) -> float:
        """`computed` / `full`; NaN if nothing would be read."""
        return self.computed / self.full if self.full else math.nan


@dataclass(frozen=True)
class Narrowed:
    """The scores of all modules, a `Standing` for each in the same order, the tokens, and the reference module."""

    scores: Scores
    standings: tuple[Standing, ...]
    tokens: Spent
    reference: Module | None


def narrow(
    scorer: Scorer,
    examples: Sequence[Example],
    *,
    indicators: Sequence[Indicator],
    reduction: str,
    retrieval: Retrieval | None,
    race: Race | None,
) -> Narrowed:
    """Retrieve, race, and put together what is known of every module."""
    places = list(range(len(scorer.modules)))
    out: dict[int, Standing] = {}
    if retrieval is not None and retrieval.keep < len(places):
        places, out = _retrieve(scorer, examples, retrieval, indicators)
    elif retrieval is not None:
        scorer.say(f"there are no more than {retrieval.keep:,} modules: all {len(places):,} take part")
    if race is None:
        table = scorer.table(places, indicators, examples)
        standings = [Standing(FINALIST, len(examples), order=1)] * len(places)
    else:
        standings, table = race_rounds(scorer, places, examples, indicators, race)
    found = out | dict(zip(places, standings, strict=True))
    every = tuple(found[place] for place in range(len(scorer.modules)))
    full = passes(indicators, len(scorer.modules)) * sum(scorer.lengths(examples))
    full += round(scorer.trials * len(scorer.modules) / len(places))
    tuning = scorer.tuning_tokens()
    both = any(needs_reference(one, scorer.backbone) for one in indicators)
    spent = Spent(scorer.spent + tuning, full + (tuning if both else 0))
    names = [module.name for module in scorer.modules]
    scores = _scores(table, names, every, reduction=reduction, rows=len(examples))
    return Narrowed(scores, every, spent, scorer.tuned)


def _retrieve(
    scorer: Scorer, examples: Sequence[Example], retrieval: Retrieval, indicators: Sequence[Indicator]
) -> tuple[list[int], dict[int, Standing]]:
    """Places of the modules that are retrieved, and the standings of the others."""
    every = range(len(scorer.modules))
    chosen = chosen_indicators(retrieval.by or (usual_list(scorer.modules, scorer.task, scorer.reference),))
    check_request(chosen, examples)

    def later() -> list[ScoreUnit]:
        return list(scorer.plan(every[: retrieval.keep], indicators, examples).units.values())

    table = scorer.table(every, chosen, examples, later=later)
    order = joined(table.reduce("mean").values, retrieval.join)
    names = " and ".join(table.indicators)
    scorer.say(f"retrieved {retrieval.keep:,} of {plural(len(every), 'module')} by {names}")
    out = {
        place: Standing(RETRIEVED_OUT, 0, f"number {rank:,} of {len(every):,} by {names}", order=-rank)
        for rank, place in enumerate(order, 1)
        if rank > retrieval.keep
    }
    return sorted(order[: retrieval.keep]), out


def usual_list(modules: Sequence[AnyModule], task: Task, reference: Module | TuneUnit | None = None) -> str:
    """What modules are retrieved by for a task if nothing is said; `reference`, if it is known before."""
    shaping = reference if isinstance(reference, Module) else commonest(modules)
    if reference is None and (shaping is None or not task.splits.get("train")):
        return UNCOMPARED
    return OF_LORA if shaping is not None and shaping.kind == "lora" else USUAL


def _scores(
    table: ScoreTable, names: Sequence[str], standings: Sequence[Standing], *, reduction: str, rows: int
) -> Scores:
    """The scores of all modules: each on the rows that it has read, a sum as if it had read them all."""
    found = table.reduce(reduction)
    place = {name: index for index, name in enumerate(found.names)}
    values: dict[str, tuple[float, ...]] = {}
    reasons = {indicator: dict(why) for indicator, why in found.reasons.items()}
    for indicator, known in found.values.items():
        own = []
        for name, standing in zip(names, standings, strict=True):
            if name not in place:
                reasons.setdefault(indicator, {})[name] = f"{standing.stage}: {standing.why}"
                own.append(math.nan)
                continue
            scale = rows / standing.rows if reduction == "sum" and standing.rows else 1.0
            own.append(known[place[name]] * scale)
        values[indicator] = tuple(own)
    return Scores(tuple(names), values, reduction, found.examples, found.tokens, reasons)
