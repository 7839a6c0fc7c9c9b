"""The units of a ranking: every module by every indicator, and the reference module if one is needed."""

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Self

from headstart.backbones import Backbone, BackboneInput, TextFormat
from headstart.errors import ModuleError
from headstart.indicators import AfterSteps, Indicator, Need, WeightIndicator
from headstart.indicators.engine import ANSWERS
from headstart.indicators.table import ScoreTable
from headstart.indicators.unit import ScoreUnit, scored_together, table_of
from headstart.kinds import AnyModule, Module
from headstart.tasks import Example, Task
from headstart.tasks.content import options_read, rows_read
from headstart.tuning.recipes import Recipe
from headstart.tuning.unit import TuneUnit
from headstart.units import Results, Unit

__all__ = ["Scoring", "commonest", "needs_reference", "reference_unit", "scoring_examples"]

SCORING_ROWS = {"classification": 30, "other": 50}
"""How many examples of the dev split to score on (Lv et al., 2023, §3.1)."""


@dataclass(frozen=True)
class Scoring:
    """What a ranking computes. `units` have the keys (module, indicator); `reference` is a module, a unit or `None`."""

    units: Mapping[tuple[str, str], ScoreUnit]
    trials: Sequence[TuneUnit]
    modules: Sequence[AnyModule]
    indicators: Sequence[Indicator]
    reference: Module | TuneUnit | None

    @classmethod
    def plan(
        cls,
        task: Task,
        modules: Sequence[AnyModule],
        backbone: Backbone,
        *,
        indicators: Sequence[Indicator],
        rows: int | None = None,
        recipe: Recipe,
        text_format: TextFormat | None = None,
        seed: int,
        reference: Module | TuneUnit | None = None,
        examples: Sequence[Example] | None = None,
    ) -> Self:
        """The units that `rank` runs with these arguments; units that need no reference module do not name it.

        `examples` take the place of a draw of `rows` from the dev split.
        """
        text_format = text_format or recipe.text_format
        needing = {one for one in indicators if needs_reference(one, backbone)}
        compared = reference
        if needing and reference is None:
            compared = reference_unit(task, backbone, like=modules, recipe=recipe, seed=seed)
        trials = _trials(task, modules, backbone, indicators=indicators, recipe=recipe, seed=seed)
        identity = BackboneInput.of(backbone, text_format)
        given = scoring_examples(task, rows=rows, seed=seed) if examples is None else examples
        scored, offered = rows_read(given), options_read(given)
        together = scored_together(modules) if any(_relative(one) for one in indicators) else None
        units: dict[tuple[str, str], ScoreUnit] = {}
        for module in modules:
            for one in indicators:
                like = compared if one in needing else None
                trial = trials[module.name, one.m] if isinstance(one, AfterSteps) else None
                beside = together if _relative(one) else None
                options = offered if Need.OPTIONS in one.needs else ""
                unit = ScoreUnit(identity, module, scored, str(one.spec), text_format, like, trial, beside, options)
                units[module.name, str(one.spec)] = unit
        tuned = [unit for unit in trials.values() if isinstance(unit, TuneUnit)]
        return cls(units, tuned, modules, indicators, compared)

    def all_units(self) -> list[Unit]:
        """Everything that is to be run."""
        reference = [self.reference] if isinstance(self.reference, TuneUnit) else []
        return [*reference, *self.trials, *self.units.values()]

    def table(self, found: Results) -> ScoreTable:
        """The values; a module that could not be read has none. Any other error of these units is raised."""
        own = {unit.key for unit in (*self.units.values(), *self.trials)}
        for unit in self.all_units():
            error = found.failed.get(unit.key)
            if error is not None and (unit.key not in own or not isinstance(error, ModuleError)):
                raise error
        untried = {
            unit.key: found.failed[unit.trial.key]
            for unit in self.units.values()
            if isinstance(unit.trial, TuneUnit) and unit.trial.key in found.failed
        }
        names, specs = [module.name for module in self.modules], [str(one.spec) for one in self.indicators]
        return table_of(self.units, found, {**found.failed, **untried}, modules=names, indicators=specs)

    def reference_module(self, found: Results) -> Module | None:
        """The reference module that the others were compared with."""
        if isinstance(self.reference, TuneUnit):
            return self.reference.tuned(found.of(self.reference)).module
        return self.reference


def _relative(indicator: Indicator) -> bool:
    return isinstance(indicator, WeightIndicator) and indicator.relative


def needs_reference(indicator: Indicator, backbone: Backbone) -> bool:
    """Whether its values depend on a reference module: an encoder's modules answer through that module's task head."""
    through_head = ANSWERS if backbone.is_encoder else frozenset()
    return bool(indicator.needs & (through_head | {Need.REFERENCE}))


def scoring_examples(task: Task, *, rows: int | None = None, seed: int = 0) -> tuple[Example, ...]:
    """The dev examples that modules are scored on: `rows` of them, by default as many as in [PEWE]."""
    usual = SCORING_ROWS["classification" if task.card.labels else "other"]
    return task.take("dev", usual if rows is None else rows, seed=seed).dev


def commonest(modules: Sequence[AnyModule]) -> AnyModule | None:
    """The first module of the shape that most have, of those that can be tuned; it shapes the reference module."""
    shapes: dict[Hashable, list[AnyModule]] = {}
    for module in modules:
        if not module.only_ranked:
            shapes.setdefault((module.kind, module.stack_key), []).append(module)
    return max(shapes.values(), key=len)[0] if shapes else None


def reference_unit(
    task: Task, backbone: Backbone, *, like: Sequence[AnyModule], recipe: Recipe, seed: int = 0
) -> TuneUnit:
    """The unit that tunes Õ: a fresh module of the hub's commonest shape, tuned for 200 steps on the task.

    See Lv et al., 2023, §2.2. The module is evaluated every 50 steps and its best state is kept. A recipe with fewer
    than 200 steps keeps its own number.
    """
    shaping = commonest(like)
    if shaping is None:
        raise ModuleError("no module here can shape the reference module; use indicators that need none")
    start = shaping.load().with_head(None).untuned(backbone, seed=seed)
    short = _short(recipe, min(200, recipe.max_steps), every=min(50, recipe.eval_every))
    identity = BackboneInput.of(backbone, recipe.text_format)
    return TuneUnit.of(task, identity, start=start, recipe=short, seed=seed, name="reference")


def _trials(
    task: Task,
    modules: Sequence[AnyModule],
    backbone: Backbone,
    *,
    indicators: Sequence[Indicator],
    recipe: Recipe,
    seed: int,
) -> dict[tuple[str, int], TuneUnit | str]:
    """By module and number of steps, the units that tune modules for these indicators, or why one cannot be tuned."""
    found: dict[tuple[str, int], TuneUnit | str] = {}
    identity = BackboneInput.of(backbone, recipe.text_format)
    for steps in dict.fromkeys(one.m for one in indicators if isinstance(one, AfterSteps)):
        short = _short(recipe, steps, every=-(-steps // 2))
        for module in modules:
            found[module.name, steps] = (
                f"it is {module.only_ranked}, which can be ranked but not tuned"
                if module.only_ranked
                else TuneUnit.of(task, identity, start=module, recipe=short, seed=seed, name=module.name)
            )
    return found


def _short(recipe: Recipe, steps: int, *, every: int) -> Recipe:
    """The recipe with so many steps, none of which is left out, and an evaluation after `every` so many."""
    warmup = min(steps, recipe.warmup_steps)
    return recipe.change(max_steps=steps, eval_every=every, patience=steps, warmup_steps=warmup)
