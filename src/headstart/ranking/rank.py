"""Rank a hub for a task: its modules are read, checked and scored on the task's examples."""

from collections import Counter
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass

import pandas as pd

from headstart.backbones import Backbone, BackboneInput, TextFormat, backbone_loaders
from headstart.errors import HubError, ModuleError, SettingError
from headstart.events import Listener, Progress
from headstart.formats import StoredModule
from headstart.hub import Hub, ModuleRef
from headstart.indicators import INDICATORS, Indicator, Need, make_indicator
from headstart.indicators.engine import NO_DISTRIBUTION, check_request, chosen_indicators
from headstart.indicators.table import Scores, ScoreTable, check_reduction
from headstart.indicators.unit import ScoreUnit, scored_rows, table_of
from headstart.kinds import AnyModule, LazyModule, Module, load_module
from headstart.tasks import Example, Task, head_of
from headstart.tuning.recipes import RECIPES, Recipe
from headstart.tuning.unit import TuneUnit
from headstart.units import AnyStore, Results, Store, Unit, run

__all__ = [
    "Ranking",
    "Refused",
    "best_first",
    "fits",
    "load_modules",
    "rank",
    "reference_unit",
    "require_defined",
    "scoring_examples",
]

SCORING_ROWS = {"classification": 30, "other": 50}
"""Examples to score on, from the dev split (Lv et al., 2023, §3.1)."""


@dataclass(frozen=True)
class Refused:
    """A module of the hub that took no part, and why."""

    name: str
    reason: str


@dataclass(frozen=True)
class Ranking:
    """The hub's modules scored for one task. `modules` and `scores.names` have one order.

    The tensors of a hub's modules are still on the disk: `load()` reads them.
    """

    modules: tuple[AnyModule, ...]
    scores: Scores
    refused: tuple[Refused, ...]
    reference: Module | None

    def frame(self) -> pd.DataFrame:
        """One row per module: module, task, family, license, then one column per indicator; best first by the first."""
        rows = [
            {"module": m.name, "task": m.card.task, "family": m.card.family, "license": m.card.license}
            | {name: values[index] for name, values in self.scores.values.items()}
            for index, m in enumerate(self.modules)
        ]
        frame = pd.DataFrame(rows)
        return best_first(frame, next(iter(self.scores.values))) if self.scores.values else frame


def fits(backbone: Backbone) -> Callable[[StoredModule], None]:
    """A check for `Hub.add_all`: raises `ModuleError` unless the stored module fits the backbone."""
    return lambda stored: load_module(stored).check(backbone)


def load_modules(
    hub: Hub | Sequence[AnyModule], backbone: Backbone, *, progress: Listener | None = None
) -> tuple[list[AnyModule], list[Refused]]:
    """The modules of a hub that fit; those that are broken or do not fit are named with the reason.

    No more than one module of each shape is read: the others with it fit the same backbones, and their tensors are
    read when a stack needs them. Modules that were loaded before are only checked, and the first that does not fit is
    an error: who gave it meant it. Raises `HubError` when none is left or two have one name, `ModuleError` for a given
    module that does not fit.
    """
    if not isinstance(hub, Hub):
        return _given(hub, backbone), []
    modules: list[AnyModule] = []
    refused = [Refused(problem.name, problem.reason) for problem in hub.problems()]
    refs, shapes = hub.refs(), _Shapes(backbone)
    for done, ref in enumerate(refs):
        try:
            modules.append(shapes.module(ref))
        except ModuleError as error:
            refused.append(Refused(ref.name, str(error)))
        if progress:
            progress(Progress("reading modules", done + 1, len(refs)))
    if not modules:
        why = (
            f"the first of {len(refused)} refused: {refused[0].reason}"
            if refused
            else "add some with headstart hub add"
        )
        raise HubError(f"the hub {hub.path} has no module that fits {backbone.name}; {why}")
    return modules, refused


class _Shapes:
    """What the modules of one shape have in common, known from the first of them that fits the backbone."""

    def __init__(self, backbone: Backbone) -> None:
        self.backbone = backbone
        self.known: dict[Hashable, tuple[type[Module], Hashable]] = {}

    def module(self, ref: ModuleRef) -> LazyModule:
        """The module without its tensors; raises `ModuleError` unless it fits."""
        card = ref.card
        key = (ref.shape, card.backbone and card.backbone.weights, card.head and card.head.to_json())
        if key not in self.known:
            module = load_module(ref.read())
            module.check(self.backbone)
            self.known[key] = module.family, module.stack_key
        family, stack_key = self.known[key]
        # What PEFT computes goes one by one: no other module has its key.
        own = ref.digest if family.ranked_alone(card) else stack_key
        return LazyModule(ref, card, family, own, self.backbone.fingerprint)


def _given(modules: Sequence[AnyModule], backbone: Backbone) -> list[AnyModule]:
    if not modules:
        raise HubError("there is no module to rank; give at least one")
    name, count = Counter(module.name for module in modules).most_common(1)[0]
    if count > 1:
        raise HubError(f"{count} of the modules are named '{name}'; give each its own name on its card")
    for module in modules:
        if not (isinstance(module, LazyModule) and module.fits.same_as(backbone.fingerprint)):
            module.load().check(backbone)
    return list(modules)


def rank(
    task: Task,
    hub: Hub | Sequence[AnyModule],
    backbone: Backbone,
    *,
    indicators: Sequence[str] = ("cosine",),
    reduction: str = "mean",
    rows: int | None = None,
    recipe: Recipe | str = "few-shot",
    text_format: TextFormat | None = None,
    seed: int = 0,
    reference: Module | None = None,
    store: AnyStore = None,
    engine: str = "serial",
    progress: Listener | None = None,
) -> Ranking:
    """Score every module of a hub on a task's dev split by every asked indicator, in one pass.

    Values are kept in the store, one unit for each module and indicator: what was scored before is not scored again.

    Args:
        task: with a dev split; a train split too where an indicator needs the reference module.
        hub: a hub, or modules that were loaded before.
        backbone: the frozen model.
        indicators: specs: a name in `INDICATORS`, with parameters where it has some ("grand:block=3").
        reduction: "mean" or "sum" over target tokens.
        rows: dev examples to score on; `None` is 30 for a classification task and 50 for others, as in [PEWE].
        recipe: what the reference module is tuned with, cut to 200 steps.
        text_format: text layout; `None` is that of the recipe.
        seed: of the draw of examples and of the reference module.
        reference: a module tuned on the task, where there is one already.
        store: where scores and the reference module are kept; `None` is the user's, `False` keeps nothing.
        engine: where they are computed: "serial", or "processes=N".
        progress: told how far the work is, and what became of every unit.

    Raises:
        HubError: no module fits.
        ModuleError: a module that was loaded before does not fit.
        SettingError: an unknown name.
        TaskError: the dev split is missing or empty.
    """
    recipe = RECIPES[recipe] if isinstance(recipe, str) else recipe
    text_format = text_format or TextFormat(max_input=recipe.max_input, max_target=recipe.max_target)
    # An encoder's modules answer through the reference module's task head.
    chosen = chosen_indicators(indicators)
    needs_reference = backbone.is_encoder or any(Need.REFERENCE in indicator.needs for indicator in chosen)
    check_reduction(reduction)
    require_defined(indicators, task, backbone)
    examples = scoring_examples(task, rows=rows, seed=seed)
    check_request(chosen, examples)
    modules, refused = load_modules(hub, backbone, progress=progress)
    wanted = _Wanted(backbone, modules, examples, text_format, chosen)
    tuned: Module | TuneUnit | None = reference
    if needs_reference and reference is None:
        tuned = reference_unit(task, backbone, like=modules, recipe=recipe, seed=seed)
    with Store.opened(store) as kept:
        units = wanted.units(tuned)
        needed = [tuned] if isinstance(tuned, Unit) else []
        found = run(
            [*needed, *units.values()], store=kept, engine=engine, loaders=backbone_loaders(backbone), raising=False,
            listener=progress,
        )  # fmt: skip
        table = wanted.table(units, found)
        if isinstance(tuned, TuneUnit):
            reference = tuned.tuned(found.of(tuned)).module
    return Ranking(tuple(modules), table.reduce(reduction), tuple(refused), reference)


@dataclass(frozen=True)
class _Wanted:
    """What a ranking asks for: every module by every indicator."""

    backbone: Backbone
    modules: Sequence[AnyModule]
    examples: Sequence[Example]
    text_format: TextFormat
    indicators: Sequence[Indicator]

    def units(self, reference: Module | TuneUnit | None) -> dict[tuple[str, str], ScoreUnit]:
        """A unit under each (module, indicator); those that need no reference module do not name it."""
        backbone, rows = BackboneInput.of(self.backbone), scored_rows(self.examples)
        return {
            (module.name, str(indicator.spec)): ScoreUnit(
                backbone, module, rows, str(indicator.spec), self.text_format,
                reference if self.backbone.is_encoder or Need.REFERENCE in indicator.needs else None,
            )
            for module in self.modules
            for indicator in self.indicators
        }  # fmt: skip

    def table(self, units: Mapping[tuple[str, str], ScoreUnit], found: Results) -> ScoreTable:
        """The values; a module that could not be read has none, and any other failure is raised."""
        scored = {unit.key for unit in units.values()}
        for key, error in found.failed.items():
            if key not in scored or not isinstance(error, ModuleError):
                raise error
        names, specs = [module.name for module in self.modules], [str(one.spec) for one in self.indicators]
        return table_of(units, found, found.failed, modules=names, indicators=specs)


def require_defined(indicators: Sequence[str], task: Task, backbone: Backbone) -> None:
    """Raise `SettingError` when an encoder's answers to the task have none of these scores, before any work.

    Raises `TaskError` when no head on an encoder can answer the task.
    """
    values = backbone.is_encoder and head_of(task.card).task == "regression"
    if values and all(make_indicator(name).distribution for name in indicators):
        defined = ", ".join(name for name, known in INDICATORS.items() if not known.distribution)
        raise SettingError(
            f"'{indicators[0]}' has no value for '{task.name}': {NO_DISTRIBUTION}; use one of: {defined}"
        )


def scoring_examples(task: Task, *, rows: int | None = None, seed: int = 0) -> tuple[Example, ...]:
    """The dev examples that modules are scored on: `rows` of them, by default as many as [PEWE] takes."""
    usual = SCORING_ROWS["classification" if task.card.labels else "other"]
    return task.take("dev", usual if rows is None else rows, seed=seed).dev


def reference_unit(
    task: Task, backbone: Backbone, *, like: Sequence[AnyModule], recipe: Recipe, seed: int = 0
) -> TuneUnit:
    """The unit that tunes Õ: a fresh module of the hub's commonest shape, 200 steps on the task, the best kept.

    (Lv et al., 2023, §2.2.) It is evaluated every 50 steps. A recipe with fewer steps than 200 keeps its own.
    """
    shapes: dict[Hashable, list[AnyModule]] = {}
    for module in like:
        if not module.only_ranked:
            shapes.setdefault((module.kind, module.stack_key), []).append(module)
    if not shapes:
        raise ModuleError("no module here can shape the reference module; use indicators that need none")
    start = max(shapes.values(), key=len)[0].load().with_head(None).untuned(backbone, seed=seed)
    steps = min(200, recipe.max_steps)
    short = recipe.change(
        max_steps=steps, eval_every=min(50, recipe.eval_every), patience=steps,
        warmup_steps=min(steps, recipe.warmup_steps),
    )  # fmt: skip
    return TuneUnit.of(task, BackboneInput.of(backbone), start=start, recipe=short, seed=seed, name="reference")


def best_first(frame: pd.DataFrame, column: str) -> pd.DataFrame:
    """The rows by falling `column`; equals keep their order, and what has no value comes last."""
    return frame.sort_values(column, ascending=False, kind="stable", ignore_index=True)
