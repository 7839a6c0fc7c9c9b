"""Ranking a hub for a task: its modules are read, checked and scored on the task's examples."""

from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import pandas as pd

from headstart.backbones import Backbone, BackboneLike, TextFormat, as_backbone
from headstart.errors import HubError, ModuleError, SettingError
from headstart.events import LeftOut, Listener, Note, Progress
from headstart.formats import StoredModule
from headstart.hub import Hub, ModuleRef, as_hub
from headstart.indicators import INDICATORS, make_indicator
from headstart.indicators.engine import NO_DISTRIBUTION, check_request, chosen_indicators
from headstart.indicators.table import Scores, check_reduction
from headstart.kinds import AnyModule, LazyModule, Module, ModuleLike, as_module, as_modules, backbone_for, load_module
from headstart.ranking.bare import Bare
from headstart.ranking.narrow import Spent, narrow
from headstart.ranking.race import Race, as_race
from headstart.ranking.retrieve import Retrieval, as_retrieval
from headstart.ranking.rounds import FINALIST, Standing, require_rows
from headstart.ranking.scorer import Scorer
from headstart.ranking.scoring import reference_unit, scoring_examples
from headstart.records import Refused
from headstart.showing import cut, html_table, line, plural
from headstart.tasks import Task, TaskLike, as_task, head_of
from headstart.tuning.recipes import Recipe, as_recipe
from headstart.units import AnyStore, Store

__all__ = [
    "OWN",
    "HubLike",
    "Ranking",
    "best_first",
    "fits",
    "load_modules",
    "opened",
    "plain_modules",
    "rank",
    "reference_unit",
    "require_defined",
    "scoring_examples",
    "tell_of_own",
]

HubLike = Hub | str | Path | Iterable[ModuleLike]
"""A hub, the path of its folder, or modules: loaded before, of a hub, or their folders."""


STANDING = ("stage", "rows", "why", "order")
"""What a table says of a module that was raced."""


@dataclass(frozen=True)
class Ranking:
    """The hub's modules scored for one task. `modules` and `scores.names` have the same order.

    The tensors of a hub's modules are still on the disk; `load()` reads them. If modules were retrieved or raced,
    `standings` has how far each came, in the order of `modules`, and `tokens` what that took; a module that left has
    the score that it had then. `bare`: by indicator, the value of the bare backbone, where that was asked for.
    """

    modules: tuple[AnyModule, ...]
    scores: Scores
    refused: tuple[Refused, ...]
    reference: Module | None
    standings: tuple[Standing, ...] = ()
    tokens: Spent | None = None
    bare: Mapping[str, float] = field(default_factory=dict)

    def __repr__(self) -> str:
        best = ""
        if self.scores.values and self.modules:
            first = self.frame().iloc[0]
            best = f"best: {cut(first['module'])} {first[next(iter(self.scores.values))]:.4g}"
        refused = f"{len(self.refused)} refused" if self.refused else ""
        return line(type(self).__name__, self._title, best, refused)

    def _repr_html_(self) -> str:
        return html_table(self.frame(), title=self._title)

    @property
    def _title(self) -> str:
        scored = f" on {plural(self.scores.examples, 'example')}" if self.scores.values else ""
        return f"{plural(len(self.modules), 'module')} by {', '.join(self.scores.values) or 'no indicator'}{scored}"

    @property
    def stage(self) -> tuple[str, ...]:
        """Of each module: "retrieved out", "left in round k" or "finalist"; "" where nothing was retrieved or raced."""
        return tuple(standing.stage for standing in self.standings) or ("",) * len(self.modules)

    def finalists(self) -> "Ranking":
        """The ranking of the modules that went furthest; itself where nothing was retrieved or raced."""
        kept = [place for place, standing in enumerate(self.standings) if standing.stage == FINALIST]
        return self.of(kept) if kept else self

    def of(self, places: Sequence[int]) -> "Ranking":
        """The ranking of the modules at these positions, in this order."""
        scores = self.scores
        names = tuple(scores.names[place] for place in places)
        kept = replace(
            scores,
            names=names,
            values={spec: tuple(own[place] for place in places) for spec, own in scores.values.items()},
            reasons={spec: {name: own[name] for name in names if name in own} for spec, own in scores.reasons.items()},
        )
        standings = tuple(self.standings[place] for place in places) if self.standings else ()
        return replace(self, modules=tuple(self.modules[place] for place in places), scores=kept, standings=standings)

    def frame(self) -> pd.DataFrame:
        """A row per module: module, task, family, license, a column per indicator; best first by the first of these.

        If a module is a variant that only PEFT computes, the second column, `variant`, says which, such as "DoRA". If
        modules were retrieved or raced, `stage`, `rows` (how many were read) and `why` follow, and modules that went
        further come first.
        """
        rows = [
            {"module": m.name, "task": m.card.task, "family": m.card.family, "license": m.card.license}
            | {name: values[index] for name, values in self.scores.values.items()}
            for index, m in enumerate(self.modules)
        ]
        frame = pd.DataFrame(rows)
        if any(module.card.variant for module in self.modules):
            frame.insert(1, "variant", [module.card.variant for module in self.modules])
        if self.standings:
            frame = frame.assign(**{name: [getattr(each, name) for each in self.standings] for name in STANDING})
        frame = best_first(frame, next(iter(self.scores.values))) if self.scores.values else frame
        return best_first(frame, "order").drop(columns="order") if self.standings else frame


def fits(backbone: BackboneLike) -> Callable[[StoredModule], None]:
    """A check for `Hub.add_all`: raises `ModuleError` unless the stored module fits the backbone.

    >>> check = hs.fits(backbone)
    >>> check(hub["ada"].read())  # nothing: it fits
    """
    loaded = as_backbone(backbone)
    return lambda stored: load_module(stored).check(loaded)


def opened(hub: HubLike) -> Hub | Sequence[ModuleLike]:
    """The hub at a path, or the modules as a list. A mistyped path is so found before a backbone is loaded."""
    if isinstance(hub, Hub):
        return hub
    return [*hub] if isinstance(hub, Iterable) and not isinstance(hub, str) else as_hub(hub)


OWN = "tuned on a task called"
"""What the note on such modules says of them."""


def tell_of_own(modules: Sequence[AnyModule], task: Task, progress: Listener) -> None:
    """A note on modules that were tuned on a task of this name: they may have seen the rows that they are scored on."""
    own = [module.name for module in modules if module.card.task == task.name]
    if not own:
        return
    names = ", ".join(own[:3]) + " …" * (len(own) > 3)
    were = "was" if len(own) == 1 else "were"
    said = f"{names} {were} {OWN} '{task.name}' too: if it is this one, the rows that score were seen"
    progress(Note(f"{said}; leave such modules out"))


def tell_left_out(refused: Iterable[Refused], progress: Listener | None) -> None:
    """An event for each module that takes no part, for those who hear no result, as in a dry run."""
    if progress is not None:
        for each in refused:
            progress(LeftOut(each.name, each.reason))


def plain_modules(modules: Sequence[AnyModule]) -> tuple[list[AnyModule], list[Refused]]:
    """The modules that can be merged and tuned, and the variants that can only be ranked, each with the reason.

    Raises `HubError` if there are no others.
    """
    plain = [module for module in modules if not module.only_ranked]
    variants = [
        Refused(module.name, f"{module.only_ranked}, which can be ranked but not merged or tuned")
        for module in modules
        if module.only_ranked
    ]
    if variants and not plain:
        raise HubError(
            f"only variants that can be ranked but not tuned are left ({variants[-1].name} …); add plain modules"
        )
    return plain, variants


def load_modules(
    hub: HubLike, backbone: BackboneLike, *, progress: Listener | None = None
) -> tuple[list[AnyModule], list[Refused]]:
    """The modules of a hub that fit; those that are broken or do not fit are named with the reason.

    At most one module of each shape is read: others of that shape fit the same backbones, and their tensors are read
    when a stack needs them. Modules that were loaded before are only checked, and the first that does not fit is an
    error, because the caller chose it. Raises `HubError` if no module is left or two have the same name, `ModuleError`
    for a given module that does not fit.
    """
    hub = opened(hub)
    backbone = as_backbone(backbone)
    if not isinstance(hub, Hub) and isinstance(hub, Iterable):
        return _given(as_modules(hub, parameter="hub"), backbone), []
    hub = as_hub(hub)
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
    tell_left_out(refused, progress)
    if not modules:
        why = (
            f"the first of {len(refused)} refused: {refused[0].reason}"
            if refused
            else "add some with headstart hub add"
        )
        raise HubError(f"the hub {hub.path} has no module that fits {backbone.name}; {why}")
    return modules, refused


class _Shapes:
    """What the modules of one shape have in common, learned from the first of them that fits the backbone."""

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
        # Modules that PEFT computes go one by one: no other module has the same key.
        own = ref.digest if family.ranked_alone(card) else stack_key
        return LazyModule(ref, card, family, own, self.backbone.fingerprint)


def _given(modules: list[AnyModule], backbone: Backbone) -> list[AnyModule]:
    if not modules:
        raise HubError("there is no module to rank; give at least one")
    name, count = Counter(module.name for module in modules).most_common(1)[0]
    if count > 1:
        raise HubError(f"{count} of the modules are named '{name}'; give each its own name on its card")
    for module in modules:
        if not (isinstance(module, LazyModule) and module.fits.same_as(backbone.fingerprint)):
            module.load().check(backbone)
    return modules


def rank(
    task: TaskLike,
    hub: HubLike,
    backbone: BackboneLike | None = None,
    *,
    indicators: str | Sequence[str] = ("cosine",),
    reduction: str = "mean",
    rows: int | None = None,
    recipe: Recipe | str = "few-shot",
    text_format: TextFormat | None = None,
    seed: int = 0,
    reference: ModuleLike | None = None,
    retrieve: Retrieval | int | None = None,
    race: Race | bool = False,
    bare: bool = False,
    store: AnyStore = None,
    engine: str = "serial",
    progress: Listener | None = None,
) -> Ranking:
    """Score every module of a hub on a task's dev split by every requested indicator, in one pass.

    With `retrieve`, only the first modules by cheap lists are scored; with `race`, those that
    cannot win by the first indicator leave before all rows are read. Values are kept in the store, one unit for each
    module and indicator: what was scored before is not scored again.

    Args:
        task: with a dev split, and a train split if an indicator needs the reference module. Here and wherever a task,
            hub, backbone or module is taken, its path will do: it is then read as `Task.load`, `Hub.open`,
            `Backbone.load` or `load_module` reads it.
        hub: a hub, or a list of modules.
        backbone: the frozen model; here and wherever a hub or a module is given, `None` is the one that these name.
        indicators: specs: a name in `INDICATORS`, with parameters where it has some ("grand:block=3"); or a
            single one as text.
        reduction: "mean" or "sum" over target tokens.
        rows: dev examples to score on; `None` is 30 for a classification task and 50 for others, as in [PEWE].
        recipe: how the reference module is tuned, cut to 200 steps.
        text_format: text layout; `None` is that of the recipe.
        seed: of the draw of examples and of the reference module.
        reference: a module already tuned on the task, to use as the reference module.
        retrieve: at most how many modules take part, or a `Retrieval` that also says by which lists; `None`: all.
        race: whether modules race; a `Race` says how.
        bare: score the bare backbone, too, by indicators of which it has a value (`Ranking.bare`).
        store: where scores and the reference module are kept; `None` is the user's store, `False` keeps nothing.
        engine: where they are computed: "serial", or "processes=N".
        progress: hears how far the work has come and what became of every unit.

    Raises:
        HubError: no module fits.
        ModuleError: a module that was loaded before does not fit.
        SettingError: an unknown name, or no backbone is given and the modules name none that is here, or several.
        TaskError: the dev split is missing or empty.

    Examples:
        >>> ranking = hs.rank(task, hub, backbone, indicators="loss")
        >>> ranking
        Ranking(3 modules by loss on 6 examples; best: ...)
        >>> list(ranking.frame().columns)
        ['module', 'task', 'family', 'license', 'loss']
    """
    chosen = chosen_indicators(indicators)
    check_reduction(reduction)
    task, recipe = as_task(task), as_recipe(recipe)
    compared = None if reference is None else as_module(reference, parameter="reference").load()
    retrieval, racing = as_retrieval(retrieve), as_race(race)
    if retrieval is not None:
        chosen_indicators(retrieval.by)
    if racing is not None:
        require_rows(chosen)
    hub = opened(hub)
    backbone = backbone_for(hub, backbone)
    require_defined([str(indicator.spec) for indicator in chosen], task, backbone)
    examples = scoring_examples(task, rows=rows, seed=seed)
    check_request(chosen, examples)
    modules, refused = load_modules(hub, backbone, progress=progress)
    if progress:
        tell_of_own(modules, task, progress)
    with Store.opened(store) as kept:
        layout = text_format or recipe.text_format
        beside = Bare.plan(
            task, backbone, indicators=chosen if bare else (), recipe=recipe, text_format=layout, seed=seed,
            examples=examples,
        )  # fmt: skip
        scorer = Scorer(task, modules, backbone, recipe, layout, seed, kept, engine, progress, compared, beside)
        found = narrow(scorer, examples, indicators=chosen, reduction=reduction, retrieval=retrieval, race=racing)
    narrowed = retrieval is not None or racing is not None
    return Ranking(
        tuple(modules),
        found.scores,
        tuple(refused),
        found.reference,
        found.standings if narrowed else (),
        found.tokens if narrowed else None,
        scorer.bare(reduction),
    )


def require_defined(indicators: Sequence[str], task: Task, backbone: Backbone) -> None:
    """Raise `SettingError`, before any work, if none of these indicators suits an encoder's answers to the task.

    Raises `TaskError` if no head on an encoder can answer the task.
    """
    values = backbone.is_encoder and head_of(task.card).task == "regression"
    if values and all(make_indicator(name).distribution for name in indicators):
        defined = ", ".join(name for name, known in INDICATORS.items() if not known.distribution)
        raise SettingError(
            f"'{indicators[0]}' has no value for '{task.name}': {NO_DISTRIBUTION}; use one of: {defined}"
        )


def best_first(frame: pd.DataFrame, column: str) -> pd.DataFrame:
    """The rows by falling `column`; equal rows keep their order, and rows without a value come last."""
    return frame.sort_values(column, ascending=False, kind="stable", ignore_index=True)
