"""How `fit` ranks a large hub: its modules race, on all rows and on those of every fold."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from headstart.backbones import Backbone
from headstart.fitting.defaults import DEFAULTS
from headstart.indicators import make_indicator
from headstart.ranking.finalists import rank_finalists, unraced_note
from headstart.ranking.race import Race
from headstart.ranking.rank import HubLike, Ranking
from headstart.ranking.scoring import scoring_examples
from headstart.showing import plural
from headstart.tasks import Task

__all__ = ["LargeHub"]


@dataclass(frozen=True)
class LargeHub:
    """The race of a hub with more modules than are scored on every row; `size` modules."""

    size: int
    race: Race

    @classmethod
    def of(cls, size: int) -> "LargeHub | None":
        """The usual race; `None` for a hub that is not so large."""
        return cls(size, DEFAULTS.race) if size > DEFAULTS.all_scored else None

    def ranker(self, **how: Any) -> Callable[..., Ranking]:
        """Ranks modules for a task as `rank_finalists` does; `how` is what all rankings share."""

        def ranked(task: Task, hub: HubLike, backbone: Backbone, *, seed: int, **more: Any) -> Ranking:
            rows = len(scoring_examples(task, seed=seed))
            return rank_finalists(task, hub, backbone, race=self.on(rows), seed=seed, **how, **more)

        return ranked

    def on(self, rows: int) -> Race:
        """The race on so many rows: without a budget that does not last for its first rows."""
        budget = self.race.budget
        if budget is not None and self.race.ends(rows)[0] > budget * rows:
            return replace(self.race, budget=None)
        return self.race

    def notes(self, indicators: Sequence[str], rows: int) -> list[str]:
        """What is said of it."""
        chosen = [make_indicator(spec) for spec in indicators]
        found = [f"in a hub of {plural(self.size, 'module')}, {unraced_note(one)}" for one in chosen if not one.by_row]
        if len(found) < len(chosen):
            share = "" if self.on(rows).budget is None else f" on a budget of {self.race.budget:.0%} of all rows"
            found.append(
                f"{plural(self.size, 'module')} raced{share} for {plural(self.race.winners, 'place')}: those that left "
                "early have no score and no weight"
            )
        return found
