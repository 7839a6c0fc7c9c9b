"""How `fit` narrows a large hub down, on all rows and in every fold: some modules are retrieved, and these race."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from headstart.backbones import Backbone
from headstart.comparing.methods.contract import Pool
from headstart.comparing.methods.parse import Compared
from headstart.comparing.trials import rank_draws
from headstart.errors import SettingError
from headstart.fitting.defaults import DEFAULTS
from headstart.indicators import make_indicator
from headstart.indicators.unit import ScoreUnit
from headstart.kinds import AnyModule
from headstart.ranking.finalists import rank_finalists, unraced_note
from headstart.ranking.narrow import usual_list
from headstart.ranking.race import Race
from headstart.ranking.rank import HubLike, Ranking
from headstart.ranking.retrieve import Retrieval, as_retrieval, joined
from headstart.ranking.scoring import Scoring, scoring_examples
from headstart.showing import plural
from headstart.tasks import Task
from headstart.tuning.recipes import Recipe
from headstart.tuning.unit import TuneUnit
from headstart.units import Later, Results, Unit

__all__ = ["LargeHub"]


@dataclass(frozen=True)
class LargeHub:
    """What is done about a hub with more modules than are scored on every row.

    `modules`: how many it has. `retrieval`: which of them take part, `None` if all do. `race`: how those that take part
    race, `None` if they are so few that all are scored.
    """

    modules: int
    retrieval: Retrieval | None
    race: Race | None

    @classmethod
    def of(
        cls, modules: int, methods: Sequence[Compared], *, retrieve: Retrieval | int | None = None
    ) -> "LargeHub | None":
        """The usual way for so many modules; `None` for a hub that is not so large.

        `retrieve`: at most so many take part; `None` is the default for a hub of this size. Where a method takes
        modules by name, none is retrieved: `SettingError` if that was asked for.
        """
        retrieval = as_retrieval(retrieve)
        manual = any(method.blend is not None and method.blend.rule == "manual" for method in methods)
        if retrieval is None and modules > DEFAULTS.all_raced and not manual:
            retrieval = Retrieval(DEFAULTS.retrieved)
        if retrieval is not None and retrieval.keep >= modules:
            retrieval = None
        if retrieval is not None and manual:
            raise SettingError(
                "the rule manual takes modules by name, and retrieval would leave some of them out; leave out one of "
                "the two, or narrow the hub by name (--include, or Hub.where)"
            )
        taking_part = modules if retrieval is None else retrieval.keep
        race = DEFAULTS.race if taking_part > DEFAULTS.all_scored else None
        return None if retrieval is None and race is None else cls(modules, retrieval, race)

    @property
    def size(self) -> int:
        """How many modules take part."""
        return self.modules if self.retrieval is None else self.retrieval.keep

    def ranker(self, **how: Any) -> Callable[..., Ranking] | None:
        """Ranks modules that take part for a task, as `rank_finalists` does; `None` if they do not race.

        `how` is what all rankings share.
        """
        return None if self.race is None else partial(self._raced, **how)

    def _raced(self, task: Task, hub: HubLike, backbone: Backbone, *, seed: int, **how: Any) -> Ranking:
        rows = len(scoring_examples(task, seed=seed))
        return rank_finalists(task, hub, backbone, race=self.on(rows) or False, seed=seed, **how)

    def on(self, rows: int) -> Race | None:
        """The race on so many rows: without a budget that does not last for its first rows."""
        if self.race is None or self.race.budget is None or self.race.ends(rows)[0] <= self.race.budget * rows:
            return self.race
        return replace(self.race, budget=None)

    def pools(
        self, draws: Sequence[Task], pool: Pool, *, recipe: Recipe, run: Callable[..., Results], first: int
    ) -> list[Pool]:
        """The modules that take part on each draw: retrieved by a module that is tuned on that draw's train rows.

        These tunings are lanes of one run. `first`: the seed of the first draw, of which the others follow.
        """
        pools = [pool] * len(draws)
        if self.retrieval is None:
            return pools
        lists = {"mean": self.lists(pool, draws[0])}
        ranked = rank_draws(draws, pools, indicators=lists, recipe=recipe, run=run, first=first)
        return [pool.narrowed(self._first(each.by_reduction["mean"])) for each in ranked]

    def lists(self, pool: Pool, task: Task) -> tuple[str, ...]:
        """The specs of the lists by which modules are retrieved."""
        asked = () if self.retrieval is None else self.retrieval.by
        return asked or (usual_list(pool.modules, task),)

    def _first(self, ranking: Ranking) -> tuple[AnyModule, ...]:
        assert self.retrieval is not None
        order = joined(ranking.scores.values, self.retrieval.join)
        return tuple(ranking.modules[place] for place in sorted(order[: self.retrieval.keep]))

    def later(self, folds: Sequence[Task], pool: Pool, *, recipe: Recipe) -> Later:
        """The units of `pools`, for a dry run."""
        if self.retrieval is None:
            return {}
        chosen = [make_indicator(spec) for spec in self.lists(pool, folds[0])]
        some = Scoring.plan(folds[0], pool.modules[:1], pool.backbone, indicators=chosen, recipe=recipe, seed=0)
        count = len(chosen) * len(pool.modules) * len(folds)
        found: dict[str, tuple[int, Sequence[Unit]]] = {ScoreUnit.type: (count, list(some.units.values()))}
        if isinstance(some.reference, TuneUnit):
            found[TuneUnit.type] = (len(folds), [some.reference])
        return found

    def notes(self, indicators: Sequence[str], rows: int, *, lists: Sequence[str]) -> list[str]:
        """What is said of it; `lists` are those of the retrieval."""
        found, by = [], " and ".join(lists)
        if self.retrieval is not None:
            found.append(
                f"{self.size:,} of {plural(self.modules, 'module')} {'was' if self.size == 1 else 'were'} retrieved by "
                f"{by}, and anew on the rows of every fold; the others take no part"
            )
        if self.race is None:
            return found
        chosen = [make_indicator(spec) for spec in indicators]
        unraced = [
            f"in a hub of {plural(self.size, 'module')}, {unraced_note(one)}" for one in chosen if not one.by_row
        ]
        if len(unraced) < len(chosen):
            race = self.on(rows)
            share = "" if race is None or race.budget is None else f" on a budget of {race.budget:.0%} of all rows"
            unraced.append(
                f"{plural(self.size, 'module')} raced{share} for {plural(self.race.winners, 'place')}: those that left "
                "early have no score and no weight"
            )
        return found + unraced
