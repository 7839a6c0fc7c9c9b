"""How `fit` narrows a large hub down, on all rows and in every fold: some modules are retrieved, and these race."""

from collections.abc import Callable, Mapping, Sequence
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
from headstart.ranking.finalists import rank_finalists, unraced_note
from headstart.ranking.narrow import usual_list
from headstart.ranking.race import Race
from headstart.ranking.rank import HubLike, Ranking, reference_unit
from headstart.ranking.retrieve import Retrieval, joined
from headstart.ranking.scoring import needs_reference, scoring_examples
from headstart.showing import plural
from headstart.tasks import Task
from headstart.tuning.recipes import Recipe
from headstart.tuning.unit import TuneUnit
from headstart.units import Results, Unit

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
    def of(cls, modules: int, methods: Sequence[Compared], *, retrieve: int | None = None) -> "LargeHub | None":
        """The usual way for so many modules; `None` for a hub that is not so large.

        `retrieve`: at most so many take part; `None` is the default for a hub of this size. Where a method takes
        modules by name, none is retrieved: `SettingError` if that was asked for.
        """
        manual = any(method.blend is not None and method.blend.rule == "manual" for method in methods)
        retrieval = None
        if retrieve is not None and manual:
            raise SettingError(
                "the rule manual takes modules by name, and retrieval would leave some of them out; leave out one of "
                "the two, or narrow the hub by name (--include, or Hub.where)"
            )
        if retrieve is not None:
            retrieval = Retrieval(retrieve) if Retrieval(retrieve).keep < modules else None
        elif modules > DEFAULTS.all_raced and not manual:
            retrieval = Retrieval(DEFAULTS.retrieved)
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
        lists = {"mean": (usual_list(pool.modules, draws[0]),)}
        ranked = rank_draws(draws, pools, indicators=lists, recipe=recipe, run=run, first=first)
        return [replace(pool, modules=self._first(each.by_reduction["mean"])) for each in ranked]

    def _first(self, ranking: Ranking) -> tuple[Any, ...]:
        assert self.retrieval is not None
        order = joined(ranking.scores.values, self.retrieval.join)
        return tuple(ranking.modules[place] for place in sorted(order[: self.retrieval.keep]))

    def later(self, folds: Sequence[Task], pool: Pool, *, recipe: Recipe) -> Mapping[str, tuple[int, Sequence[Unit]]]:
        """The units of `pools`, for a dry run: how many of each type, and some that they are like."""
        if self.retrieval is None:
            return {}
        found: dict[str, tuple[int, Sequence[Unit]]] = {ScoreUnit.type: (len(pool.modules) * len(folds), ())}
        if needs_reference(make_indicator(usual_list(pool.modules, folds[0])), pool.backbone):
            like = reference_unit(folds[0], pool.backbone, like=pool.modules, recipe=recipe)
            found[TuneUnit.type] = (len(folds), [like])
        return found

    def notes(self, indicators: Sequence[str], rows: int, *, by: str) -> list[str]:
        """What is said of it; `by` is the list of the retrieval."""
        found = []
        if self.retrieval is not None:
            found.append(
                f"{self.size:,} of {plural(self.modules, 'module')} were retrieved by {by}, and anew on the rows of "
                "every fold; the others take no part"
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
