"""Scoring some modules on some rows, as often as a ranking needs it, with one reference module for all of them."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from headstart.backbones import Backbone, TextFormat, backbone_loaders
from headstart.backbones.load import tokens_of
from headstart.events import Listener, Note
from headstart.indicators import Indicator, Need
from headstart.indicators.contract import RUNS
from headstart.indicators.table import ScoreTable
from headstart.indicators.unit import ScoreUnit
from headstart.kinds import AnyModule, Module
from headstart.ranking.bare import Bare
from headstart.ranking.scoring import Scoring, needs_reference
from headstart.tasks import Example, Task
from headstart.tuning.recipes import Recipe
from headstart.tuning.unit import TuneUnit
from headstart.units import PlannedOnly, Results, Store, run
from headstart.units.engines.contract import WorkerContext

__all__ = ["Scorer", "passes"]


@dataclass
class Scorer:
    """Scores some modules on some rows, all with the same reference module, and counts what the backbone reads.

    `reference` is the module that was given, or becomes what is tuned once an indicator needs it. What is scored of the
    bare backbone, `beside` the modules, is computed with the first of them, and not counted.
    """

    task: Task
    modules: Sequence[AnyModule]
    backbone: Backbone
    recipe: Recipe
    text_format: TextFormat
    seed: int
    store: Store
    engine: str
    progress: Listener | None
    reference: Module | TuneUnit | None = None
    beside: Bare = field(default_factory=Bare)
    tuned: Module | None = None
    spent: int = 0
    trials: int = 0
    """The tokens that tuning each of the modules takes that were scored last, if an indicator needs that."""
    _lengths: dict[Example, int] = field(default_factory=dict)
    _first: Results | None = None

    def plan(self, places: Sequence[int], indicators: Sequence[Indicator], examples: Sequence[Example]) -> Scoring:
        """The units of the modules at these places."""
        if self.reference is None and any(needs_reference(one, self.backbone) for one in indicators):
            # The commonest shape of the whole hub, whichever modules are scored first.
            every = Scoring.plan(
                self.task, self.modules, self.backbone, indicators=indicators, recipe=self.recipe, seed=self.seed,
                text_format=self.text_format, examples=examples[:1],
            )  # fmt: skip
            self.reference = every.reference
        return Scoring.plan(
            self.task, [self.modules[place] for place in places], self.backbone, indicators=indicators,
            recipe=self.recipe, text_format=self.text_format, seed=self.seed, reference=self.reference,
            examples=examples,
        )  # fmt: skip

    def table(
        self,
        places: Sequence[int],
        indicators: Sequence[Indicator],
        examples: Sequence[Example],
        *,
        later: Callable[[], Sequence[ScoreUnit]] = tuple,
    ) -> ScoreTable:
        """The scores of the modules at these places; `later` plans units that may follow, for a dry run."""
        scoring = self.plan(places, indicators, examples)
        more = self.beside.units() if self._first is None else []
        try:
            found = run(
                [*scoring.all_units(), *more], store=self.store, engine=self.engine,
                loaders=backbone_loaders(self.backbone), raising=False, listener=self.progress,
            )  # fmt: skip
        except PlannedOnly as dry:
            after = later()
            raise (dry.followed_by({ScoreUnit.type: (len(after), after)}) if after else dry) from None
        context = WorkerContext(self.store, backbone_loaders(self.backbone))
        self.trials = sum(trial.load(context).tokens for trial in scoring.trials)
        self.spent += passes(indicators, len(places)) * sum(self.lengths(examples)) + self.trials
        if self._first is None:
            self._first = found
        table = scoring.table(found)
        if self.tuned is None:
            self.tuned = scoring.reference_module(found)
        return table

    def bare(self, reduction: str) -> dict[str, float]:
        """What the bare backbone has by each indicator, once some modules were scored."""
        return {} if self._first is None else self.beside.values(self._first, reduction=reduction)

    def lengths(self, examples: Sequence[Example]) -> list[int]:
        """The tokens of each example, of its input and its target."""
        for example in examples:
            if example not in self._lengths:
                self._lengths[example] = tokens_of([example], self.backbone, self.text_format)
        return [self._lengths[example] for example in examples]

    def tuning_tokens(self) -> int:
        """The tokens that tuning the reference module reads; 0 if none is tuned."""
        if not isinstance(self.reference, TuneUnit):
            return 0
        return self.reference.load(WorkerContext(self.store, backbone_loaders(self.backbone))).tokens

    def say(self, text: str) -> None:
        """A line for people."""
        if self.progress:
            self.progress(Note(text))


def passes(indicators: Sequence[Indicator], modules: int) -> int:
    """How often the backbone reads every row for the values of so many modules; the bare backbone reads them once."""
    needs = frozenset[Need]().union(*(one.needs for one in indicators))
    return (modules if needs & RUNS else 0) + (Need.BASE_PASS in needs)
