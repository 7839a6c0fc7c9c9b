"""Blend a hub into a start for a task: a rule turns scores into weights, and the weighted sum is a module."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial

import pandas as pd

from headstart.backbones import BackboneLike, backbone_loaders
from headstart.blending import (
    RULES,
    SPACES,
    Blend,
    candidates_at_hand,
    check_space,
    fitting_space,
    require_blendable,
    require_one_kind,
)
from headstart.blending.given import BlendLike, as_blend
from headstart.blending.held_out import require_held_out
from headstart.blending.start import Start, candidates_of, plan_start, reads_held_out
from headstart.blending.unit import MergeUnit
from headstart.errors import SettingError
from headstart.events import Listener
from headstart.indicators import make_indicator
from headstart.indicators.table import Scores, check_reduction
from headstart.kinds import AnyModule, Module, backbone_for
from headstart.ranking.finalists import rank_finalists
from headstart.ranking.race import Race
from headstart.ranking.rank import HubLike, Ranking, load_modules, opened, require_defined
from headstart.ranking.retrieve import Retrieval
from headstart.records import TaskCard
from headstart.tasks import TaskLike, as_task
from headstart.tuning.recipes import Recipe, as_recipe
from headstart.units import AnyStore, PlannedOnly, Store, here
from headstart.units import run as run_units

__all__ = [
    "Start",
    "blend_note",
    "checked_blend",
    "ensemble",
    "require_fit",
    "unscored",
    "weight_table",
]


def ensemble(
    task: TaskLike,
    hub: HubLike,
    backbone: BackboneLike | None = None,
    *,
    blend: BlendLike = None,
    ranking: Ranking | None = None,
    name: str | None = None,
    recipe: Recipe | str = "few-shot",
    seed: int = 0,
    retrieve: Retrieval | int | None = None,
    race: Race | bool = False,
    held_out: Callable[[Module], float] | None = None,
    store: AnyStore = None,
    engine: str = "serial",
    progress: Listener | None = None,
) -> Start:
    """Blend a hub into a start for a task: by default Σ softmax(S_i / τ) O_i (Lv et al., 2023, eq. 1).

    Variants that only PEFT computes (DoRA, …) are ranked with the others but cannot be merged exactly: their weight is
    0, and `Start.left_out` names them. Rules that need no scores, "uniform" and "manual", run no scoring pass and need
    no dev split.

    Args:
        task: with a dev split.
        hub: a hub, or a list of modules.
        backbone: the frozen model; `None` is the one that the modules name.
        blend: how, as a `Blend` or as its text ("softmax:indicator=loss,temperature=0.1"), or as a recipe file of
            modules and their weights ("blend.yaml"; see `read_recipe_file`); `None`: `Blend()`.
        ranking: a ranking made before, by the blend's indicator among others, instead of scoring again.
        name: of the start; `None` is "<task>-start".
        recipe: of the reference module, if the indicator needs one.
        seed: of the draw of examples, and of what space "dare" drops.
        retrieve: of a larger hub, only so many modules take part; see `rank`.
        race: whether modules race, so that only those that may be among the best have a weight; `True` is a race with
            `BLENDED` winners, of which the blend is made.
        held_out: returns the loss of a module on rows kept aside, for rules and scales that are chosen by it; `None`
            is the mean loss on the task's train rows, or on those of the blend's `split`.
        store: where scores and the merged module are kept; `None` is the user's store, `False` keeps nothing.
        engine: where scores are computed; see `rank`.
        progress: hears how far the work has come and what became of every unit.

    Raises:
        HubError, MergeError, SettingError, TaskError: see `rank`, `merge` and `require_defined`. What cannot work, such
            as unequal shapes in space "parameters", is refused before any pass.

    Examples:
        >>> start = hs.ensemble(task, hub, backbone, blend="softmax:indicator=loss")
        >>> start
        Start(reviews-start; softmax by loss at τ = ..., space 'parameters'; weights: ...)
        >>> round(sum(start.merged.weights), 6)
        1.0
    """
    blend, recipe, task = as_blend(blend), as_recipe(recipe), as_task(task)
    blend = checked_blend(blend, task.card)
    hub = opened(hub)
    if ranking is None:
        require_blendable(blend, hub, family=task.card.family)
    backbone = backbone_for(hub, backbone)
    scored = "scores" in RULES[blend.rule].needs
    if (retrieve is not None or race) and not (scored and ranking is None):
        why = "a ranking is given" if ranking is not None else f"rule '{blend.rule}' reads no scores"
        raise SettingError(f"{why}, so there is nothing to retrieve or race for; leave out retrieve and race")
    if held_out is None and reads_held_out(blend):
        require_held_out(task, backbone, split=blend.split)
    if scored:
        require_defined((blend.indicator,), task, backbone)
    if ranking is None:
        modules, refused = load_modules(hub, backbone, progress=progress)
        require_fit(blend, modules, task.card)
        ranking = unscored(modules, blend.reduction)
        if scored:
            try:
                ranking = rank_finalists(
                    task, modules, backbone, indicators=(blend.indicator,), reduction=blend.reduction, recipe=recipe,
                    seed=seed, retrieve=retrieve, race=race, store=store, engine=engine, progress=progress,
                )  # fmt: skip
            except PlannedOnly as dry:
                raise dry.followed_by({MergeUnit.type: (1, ())}) from None
        ranking = replace(ranking, refused=tuple(refused))
    with Store.opened(store) as kept:
        # Merged in this process, which has everything loaded: a worker would take longer to start.
        run = partial(
            run_units, store=kept, engine=here(engine), loaders=backbone_loaders(backbone), raising=False,
            listener=progress,
        )  # fmt: skip
        try:
            planned = plan_start(
                ranking, blend, task, backbone=backbone, name=name or f"{task.name}-start", seed=seed,
                held_out=held_out, run=lambda units: run(units).or_raise(),
            )  # fmt: skip
        except PlannedOnly as dry:
            raise dry.followed_by({MergeUnit.type: (1, ())}) from None
        return planned.start(run([planned.unit]).or_raise()).made_for(task.card, backbone.place)


def checked_blend(blend: Blend, card: TaskCard) -> Blend:
    """The blend, with its indicator as a canonical spec; raises `SettingError` for a bad blend, before any work."""
    rule = RULES[blend.rule]
    rule.check(blend, family=card.family)
    check_space(blend.space, rank=blend.rank, density=blend.density)
    check_reduction(blend.reduction)
    if rule.signs(blend) and blend.space != "auto" and not SPACES[blend.space].linear:
        usable = ", ".join(name for name, known in SPACES.items() if known.linear)
        raise SettingError(f"space '{blend.space}' takes no weights with signs; merge in one of: {usable}")
    if "scores" not in rule.needs:
        return blend
    return blend.model_copy(update={"indicator": str(make_indicator(blend.indicator).spec)})


def require_fit(blend: Blend, modules: Sequence[AnyModule], card: TaskCard) -> None:
    """Raise `MergeError`, before any pass, if the modules that may be blended are of several kinds or cannot be
    merged in the blend's space."""
    chosen = candidates_at_hand(blend, candidates_of(modules, None), family=card.family)
    merging = [modules[index] for index in chosen]
    require_one_kind(merging)
    if merging:
        fitting_space(blend.space, merging, rank=blend.rank)


def unscored(modules: Sequence[AnyModule], reduction: str) -> Ranking:
    """A ranking of the modules made without a pass over examples: it holds no scores."""
    names = tuple(module.name for module in modules)
    return Ranking(tuple(modules), Scores(names, {}, reduction, examples=0, tokens=0), (), None)


def weight_table(start: Start) -> pd.DataFrame:
    """The ranking with a `weight` column after the indicators; best first, or by weight if no indicator set it."""
    return start.frame()


def blend_note(start: Start) -> str:
    """One line: how many modules share the weight, and what the merge changed."""
    error = "" if start.merged.error is None else f", ΔW error {start.merged.error:.3g}"
    chosen = " chosen on held-out loss" if start.blend.scale == "held_out" else ""
    scale = f", scale {start.merged.scale:g}{chosen}" if chosen or start.merged.scale != 1 else ""
    how = start.rule if start.indicator is None else f"{start.rule} by {start.indicator}"
    if start.temperature is not None and start.rule == "held_out":
        how = f"{start.indicator} at τ = {start.temperature:.4g}, chosen on held-out loss"
    elif start.temperature is not None:
        how = f"{start.indicator} at τ = {start.temperature:.4g}"
    # Those that can only be ranked never have a weight.
    count = sum(not module.only_ranked for module in start.ranking.modules)
    effective = f"effective number of modules {start.merged.effective:.2f} of {count}"
    return f"{how}: {effective}, space '{start.merged.space}'{error}{scale}"
