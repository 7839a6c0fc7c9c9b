"""Blend a hub into a start for a task: scores become weights by a rule, and the weighted sum a module."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import pandas as pd

from headstart.backbones import Backbone
from headstart.blending import RULES, Candidate, Merged, RuleOptions, check_space, merge, require_one_kind
from headstart.hub import Hub
from headstart.indicators import INDICATORS
from headstart.indicators.engine import Scores, check_reduction
from headstart.kinds import AnyModule, Module
from headstart.ranking.rank import Progress, Ranking, best_first, load_modules, rank, require_defined
from headstart.tasks import Task
from headstart.tuning.recipes import RECIPES, Recipe

__all__ = [
    "Start",
    "blend_note",
    "blend_options",
    "blend_weights",
    "ensemble",
    "weight_table",
]


@dataclass(frozen=True)
class Start:
    """An initialization made for a task: the merged module, the ranking behind it and how it was weighed.

    `indicator` and `temperature` are `None` for rules that need none; the ranking then may hold no scores.
    """

    merged: Merged
    ranking: Ranking
    rule: str
    indicator: str | None
    temperature: float | None

    @property
    def module(self) -> Module:
        """The module to tune from."""
        return self.merged.module


def ensemble(
    task: Task,
    hub: Hub | Sequence[AnyModule],
    backbone: Backbone,
    *,
    rule: str = "softmax",
    indicator: str = "cosine",
    temperature: float | None = None,
    top_k: int | None = None,
    group: Sequence[str] = (),
    space: str = "parameters",
    rank_to: int | None = None,
    density: float | None = None,
    ranking: Ranking | None = None,
    name: str | None = None,
    reduction: str = "mean",
    recipe: Recipe | str = "few-shot",
    seed: int = 0,
    progress: Progress | None = None,
) -> Start:
    """Blend a hub into a start for a task: by default Σ softmax(S_i / τ) O_i (Lv et al., 2023, eq. 1).

    Variants that only PEFT computes (DoRA, …) are ranked with the others but have no exact merge: their weight is 0.
    Rules that need no scores, "uniform" and "manual", run no scoring pass, and need no dev split.

    Args:
        task: with a dev split.
        hub: a hub, or modules that were loaded before.
        backbone: the frozen model.
        rule: a name in `RULES`: how scores become weights. "softmax", "uniform", "top_k" (the k best, equally),
            "best_single", or "manual" (the modules of `group`, equally).
        indicator: whose scores are the S_i.
        temperature: τ of "softmax"; `None` is the indicator's own default.
        top_k: blend only the k best ("softmax", "top_k").
        group: names of modules, for "manual"; empty: all whose family is the task's.
        space: "parameters", "exact", "svd", "ties" or "dare"; see `merge`.
        rank_to: the rank that "svd" cuts to.
        density: the share of numbers that "ties" and "dare" keep; `None` is a half.
        ranking: a ranking made before, instead of scoring again.
        name: of the start; `None` is "<task>-start".
        reduction: "mean" or "sum" over target tokens.
        recipe: of the reference module, where the indicator needs one.
        seed: of the draw of examples.
        progress: called with (what, done, total).

    Raises:
        HubError, MergeError, SettingError, TaskError: see `rank`, `merge` and `require_defined`.
    """
    options = blend_options(task, rule=rule, indicator=indicator, temperature=temperature, top_k=top_k, group=group)
    check_space(space, rank=rank_to, density=density)
    check_reduction(reduction)
    recipe = RECIPES[recipe] if isinstance(recipe, str) else recipe
    scored = RULES[rule].needs_scores
    if scored:
        require_defined((indicator,), task, backbone)
    if ranking is None:
        modules, refused = load_modules(hub, backbone, progress=progress)
        if RULES[rule].takes_all(options):
            require_one_kind([module for module in modules if not module.only_ranked])
        ranking = _unscored(modules, reduction)
        if scored:
            ranking = rank(
                task, modules, backbone, indicators=(indicator,), reduction=reduction, recipe=recipe, seed=seed,
                progress=progress,
            )  # fmt: skip
        ranking = replace(ranking, refused=tuple(refused))
    weights = blend_weights(ranking.modules, rule, options, ranking.scores.values[indicator] if scored else None)
    merged = merge(
        ranking.modules, weights, space=space, rank=rank_to, density=density, name=name or f"{task.name}-start"
    )
    return Start(merged, ranking, rule, indicator if scored else None, options.temperature)


def blend_options(
    task: Task,
    *,
    rule: str,
    indicator: str,
    temperature: float | None,
    top_k: int | None,
    group: Sequence[str],
) -> RuleOptions:
    """The rule's options, τ the indicator's own where `None`; raises `SettingError` before work that would be lost."""
    chosen, own = RULES[rule], INDICATORS[indicator].temperature
    if temperature is None and "temperature" in chosen.reads:
        temperature = own
    options = RuleOptions(temperature, top_k, tuple(dict.fromkeys(group)), task.card.family)
    chosen.check(options)
    return options


def blend_weights(
    modules: Sequence[AnyModule], rule: str, options: RuleOptions, scores: Sequence[float] | None
) -> tuple[float, ...]:
    """What the rule gives every module; variants that cannot be merged get 0. `scores`: `None` where it needs none.

    Raises `MergeError`: see `Rule.weights`.
    """
    values = [math.nan] * len(modules) if scores is None else scores
    candidates = []
    for module, value in zip(modules, values, strict=True):
        merges = not module.only_ranked
        candidates.append(Candidate(module.name, module.card.family, value if merges else math.nan, merges))
    return RULES[rule].weights(candidates, options)


def _unscored(modules: Sequence[AnyModule], reduction: str) -> Ranking:
    """The modules without a pass over examples."""
    names = tuple(module.name for module in modules)
    return Ranking(tuple(modules), Scores(names, {}, reduction, examples=0, tokens=0), (), None)


def weight_table(start: Start) -> pd.DataFrame:
    """The ranking with a `weight` column after the indicators; best first, by weight where no indicator set it."""
    weights = dict(zip(start.ranking.scores.names, start.merged.weights, strict=True))
    frame = start.ranking.frame()
    return best_first(frame.assign(weight=frame["module"].map(weights)), start.indicator or "weight")


def blend_note(start: Start) -> str:
    """One line: how many modules share the weight, and what the merge changed."""
    error = "" if start.merged.error is None else f", ΔW error {start.merged.error:.3g}"
    how = start.rule if start.indicator is None else f"{start.rule} by {start.indicator}"
    if start.temperature is not None:
        how = f"{start.indicator} at τ = {start.temperature:g}"
    return (
        f"{how}: effective number of modules "
        f"{start.merged.effective:.2f} of {len(start.merged.weights)}, space '{start.merged.space}'{error}"
    )
