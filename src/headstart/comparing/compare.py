"""The guarded comparison: any list of ways to begin, before and after tuning, over several seeds."""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial

from headstart.backbones import Backbone, BackboneLike, backbone_loaders
from headstart.blending import require_blendable
from headstart.blending.ensemble import checked_blend, require_fit
from headstart.blending.given import BlendLike, as_blend
from headstart.comparing.comparison import DEFAULT_METHODS, Comparison
from headstart.comparing.methods.contract import Pool
from headstart.comparing.methods.parse import Compared, parse_methods
from headstart.comparing.running import Asked, Run
from headstart.comparing.starting import at_equal_rank, common_rank
from headstart.errors import SettingError, TaskError
from headstart.evaluating.answering import check_decoding
from headstart.evaluating.choice import possible_calibration
from headstart.events import Listener
from headstart.indicators.engine import chosen_indicators
from headstart.kinds import AnyModule, backbone_for
from headstart.ranking.rank import (
    HubLike,
    load_modules,
    opened,
    plain_modules,
    require_defined,
    tell_left_out,
    tell_of_own,
)
from headstart.records import Refused
from headstart.showing import call_text
from headstart.tasks import Task, TaskLike, as_task
from headstart.tuning.recipes import Recipe, as_recipe
from headstart.units import AnyStore, Store, here
from headstart.units import run as run_units
from headstart.units.engines.contract import WorkerContext

__all__ = ["compare"]

KEEPS = (None, "best", "all")


def compare(
    task: TaskLike,
    hub: HubLike,
    backbone: BackboneLike | None = None,
    *,
    methods: str | Sequence[str] = DEFAULT_METHODS,
    seeds: int = 3,
    shots: int | None = None,
    blend: BlendLike = None,
    equal_rank: bool = True,
    indicators: str | Sequence[str] = (),
    recipe: Recipe | str = "few-shot",
    decoding: str = "auto",
    calibration: str = "auto",
    keep: str | None = None,
    store: AnyStore = None,
    engine: str = "serial",
    progress: Listener | None = None,
) -> Comparison:
    """Tune from several starts on few-shot draws of a task and test each, before and after.

    Every seed is another draw of training and dev rows, another fresh module and another order; all methods of a seed
    share them. The test split is used only for the reported scores. Methods that begin from the very same module
    are tuned once, and `Comparison.starts` says so.

    Args:
        task: with train and test splits (and a dev split, or enough training rows to draw one from).
        hub: a hub, or a list of modules.
        backbone: the frozen model; `None` is the one that the modules name.
        methods: what is compared, each as "[LABEL=]NAME[:field=value,…]": a name in
            `headstart.comparing.methods.METHODS` or a merge rule, with the `Blend` fields that differ from `blend`
            ("mine=softmax:indicator=loss,temperature=0.1").
        seeds: the number of seeds, which count from 0.
        shots: rows per class (four times as many without classes); `None` is [PEWE]'s 16 and 64.
        blend: how "ensemble" is made; the other blending methods take their indicator and space from it.
        equal_rank: whether LoRA methods tune equally many parameters: at one rank, the blend's or else the largest in
            the hub, in all layers that a module of the hub adapts. "svd" cuts a larger start to that rank; a smaller
            one, or one of fewer layers, is padded, which leaves its function as it is. Otherwise each start keeps its
            own rank and layers.
        indicators: further indicators to show in the ranking.
        recipe: how each start is tuned.
        decoding: as in `evaluate`.
        calibration: how likelihoods of options are compared: "none", "length", "batch", or "auto" for the one with the
            best score on the dev draw. Every method chooses its own in each seed, before tuning and after it.
        keep: which tuned modules are in `Comparison.modules`: "best", the one with the best score on its dev rows, or
            "all"; `None` is none.
        store: where scores, tuned modules and tests are kept, so that a killed comparison can continue; `None` is the
            user's store, `False` keeps nothing.
        engine: where they are computed: "serial", or "processes=N".
        progress: hears how far the work has come and what became of every unit.

    Raises:
        HubError, MergeError, SettingError, TaskError: see `rank`, `merge` and `Task.few_shot`. What cannot work is
            refused before any pass.
        StoreError: the store cannot be written.

    Examples:
        >>> comparison = hs.compare(
        ...     task, hub, backbone, methods=("scratch", "average"), seeds=1, shots=2, recipe=short
        ... )
        >>> comparison
        Comparison(reviews by ACC, 1 seed, 6 test rows; methods: scratch, average)
        >>> list(comparison.means().columns)
        ['method', 'zero-shot', 'tuned']
    """
    call = call_text(compare, locals())
    task, recipe, base = as_task(task), as_recipe(recipe), as_blend(blend)
    shown = tuple(str(indicator.spec) for indicator in chosen_indicators(indicators))
    hub, parsed = opened(hub), parse_methods(methods, base)
    for method in parsed:
        if method.blend is not None:
            require_blendable(method.blend, hub, family=task.card.family)
    backbone = backbone_for(hub, backbone)
    compared = _checked(task, backbone, parsed, seeds=seeds, decoding=decoding)
    draws = [task.few_shot(k=shots, seed=seed) for seed in range(seeds)]
    if keep not in KEEPS:
        raise SettingError(f"unknown keep '{keep}'; choose one of: {', '.join(filter(None, KEEPS))}")
    possible_calibration(calibration, draws[0], backbone, decoding=decoding)
    modules, refused = _pool_of(hub, backbone, progress=progress)
    if progress:
        tell_of_own(modules, task, progress)
    for method in compared:
        if method.blend is not None:
            require_fit(method.blend, modules, task.card)
    rank_of_all = common_rank(modules, asked=base.rank) if equal_rank else None
    compared = tuple(at_equal_rank(method, rank_of_all) for method in compared)
    pool = Pool(tuple(modules), backbone, rank_of_all)
    asked = Asked(task, compared, base, shown, recipe, decoding, calibration, seeds, keep)
    run = Run(asked, pool, merging=here(engine), listener=progress)
    with Store.opened(store) as kept:
        loaders = backbone_loaders(backbone)
        run.all(
            draws,
            partial(run_units, store=kept, engine=engine, loaders=loaders, listener=progress),
            WorkerContext(kept, loaders),
        )
    found = run.result(refused, shots=shots)
    return replace(found, settings={**found.settings, "call": call})


def _checked(
    task: Task, backbone: Backbone, methods: Sequence[Compared], *, seeds: int, decoding: str
) -> tuple[Compared, ...]:
    """The methods, with their blends checked: an error that would only show after minutes of work is raised now."""
    if seeds < 1:
        raise SettingError(f"seeds {seeds} must be at least 1")
    check_decoding(decoding, backbone)
    if not task.test:
        raise TaskError(f"task '{task.name}' has an empty test split; add rows to it")
    checked = []
    for method in methods:
        blend = None if method.blend is None else checked_blend(method.blend, task.card)
        if blend is not None and method.needs_scores:
            require_defined((blend.indicator,), task, backbone)
        checked.append(replace(method, blend=blend))
    return tuple(checked)


def _pool_of(hub: HubLike, backbone: Backbone, *, progress: Listener | None) -> tuple[list[AnyModule], list[Refused]]:
    """The modules that can be merged and tuned, and those that cannot, each with the reason."""
    modules, refused = load_modules(hub, backbone, progress=progress)
    plain, variants = plain_modules(modules)
    tell_left_out(variants, progress)
    return plain, [*refused, *variants]
