"""A start for a task: a ranking and a blend give the weights at once; a unit of work makes the merged module."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial

import pandas as pd

from headstart.backbones import Backbone, BackboneInput
from headstart.blending import RULES, Blend, Candidate, Merged, Request, Weighed, fitting_space
from headstart.blending.blend import SCALES
from headstart.blending.held_out import GivenLoss, HeldOutRows
from headstart.blending.merging import MergePlan
from headstart.blending.unit import MergeUnit
from headstart.blending.weights import lowest
from headstart.errors import SettingError
from headstart.kinds import AnyModule, Module
from headstart.kinds.saving import based_on
from headstart.ranking.rank import Ranking, best_first
from headstart.records import Refused, TaskCard
from headstart.showing import cut, html_table, line
from headstart.tasks import Task
from headstart.units import Results

__all__ = ["PlannedStart", "Start", "candidates_of", "plan_start", "reads_held_out"]

SHOWN = 3
"""How many of the heaviest modules the `repr` of a start names."""


@dataclass(frozen=True)
class Start:
    """An initialization made for a task: the merged module, the ranking behind it and how it was weighed.

    `temperature` is the τ that was used, `None` for rules without one. `left_out`: modules that could not take part,
    each with the reason.
    """

    merged: Merged
    ranking: Ranking
    blend: Blend
    temperature: float | None
    left_out: tuple[Refused, ...] = ()

    def __repr__(self) -> str:
        weighed = zip(self.merged.weights, self.ranking.scores.names, strict=True)
        heaviest = sorted(weighed, key=lambda pair: abs(pair[0]), reverse=True)[:SHOWN]
        weights = ", ".join(f"{cut(name, 30)} {weight:.2g}" for weight, name in heaviest if weight != 0)
        left_out = f"{len(self.left_out)} left out" if self.left_out else ""
        return line(type(self).__name__, cut(self.module.name), self._how, f"weights: {weights}", left_out)

    def _repr_html_(self) -> str:
        return html_table(self.frame(), title=f"{self.module.card.words}: {self._how}")

    @property
    def _how(self) -> str:
        by = "" if self.indicator is None else f" by {self.indicator}"
        tau = "" if self.temperature is None else f" at τ = {self.temperature:.4g}"
        scale = "" if self.merged.scale == 1 else f", scale {self.merged.scale:g}"
        return f"{self.rule}{by}{tau}, space '{self.merged.space}'{scale}"

    def frame(self) -> pd.DataFrame:
        """The ranking with a `weight` column after the indicators; best first, or by weight if no indicator set it."""
        weights = dict(zip(self.ranking.scores.names, self.merged.weights, strict=True))
        frame = self.ranking.frame()
        return best_first(frame.assign(weight=frame["module"].map(weights)), self.indicator or "weight")

    @property
    def module(self) -> Module:
        """The module from which to tune."""
        return self.merged.module

    def made_for(self, card: TaskCard, place: str) -> "Start":
        """The same start, whose module says how rows of the task are read, and where its backbone is."""
        facts = {"template": card.template, "labels": card.labels, "options": card.options}
        module = replace(self.module, card=self.module.card.model_copy(update=facts))
        return replace(self, merged=replace(self.merged, module=based_on(module, place)))

    @property
    def rule(self) -> str:
        """The rule that gave the weights."""
        return self.blend.rule

    @property
    def indicator(self) -> str | None:
        """The indicator whose scores set the weights; `None` for a rule that needs none."""
        return self.blend.indicator if "scores" in RULES[self.blend.rule].needs else None


@dataclass(frozen=True)
class PlannedStart:
    """A start whose weights are known; `unit` will make its module. The rest is as in `Start`."""

    unit: MergeUnit
    ranking: Ranking
    blend: Blend
    temperature: float | None
    left_out: tuple[Refused, ...] = ()

    def start(self, found: Results) -> Start:
        """The start with its module."""
        merged = self.unit.merged(found.of(self.unit))
        return Start(merged, self.ranking, self.blend, self.temperature, self.left_out)


def plan_start(
    ranking: Ranking,
    blend: Blend,
    task: Task,
    *,
    backbone: Backbone,
    name: str,
    run: Callable[..., Results] | None = None,
    seed: int = 0,
    held_out: Callable[[Module], float] | None = None,
) -> PlannedStart:
    """The start that a blend makes of a ranking; see `ensemble`. `run` runs what held-out rows are asked.

    Raises `SettingError` if the ranking lacks the indicator.
    """
    fixed = blend.scale if isinstance(blend.scale, float) else 1.0
    planned = partial(
        MergePlan.of, ranking.modules, space=blend.space, rank=blend.rank, density=blend.density, seed=seed, scale=fixed
    )  # fmt: skip
    rule = RULES[blend.rule]
    candidates = candidates_of(ranking.modules, _scores(ranking, blend) if "scores" in rule.needs else None)
    rows: HeldOutRows | GivenLoss | None = None
    if held_out is not None:
        rows = GivenLoss(held_out, planned, backbone)
    elif reads_held_out(blend):
        assert run is not None  # for those who plan starts that may ask held-out rows
        rows = HeldOutRows.of(
            task, ranking.modules, backbone, split=blend.split, planned=planned, run=run,
            summed=_sums_updates(blend, ranking.modules), seed=seed, scale=fixed,
        )  # fmt: skip
    asked = Request(blend, candidates, task.card.family, seed=seed)
    found: Weighed = rule.weigh(asked if rows is None else replace(asked, held_out=rows))
    scale = fixed
    if blend.scale == "held_out" and rows is not None:
        losses = rows.losses([found.weights] * len(SCALES), scales=SCALES)
        scale = SCALES[lowest(losses)]
    unit = MergeUnit.of(planned(found.weights, scale=scale), backbone=BackboneInput.of(backbone), name=name)
    return PlannedStart(unit, ranking, blend, found.temperature, _left_out(ranking, blend, candidates))


def reads_held_out(blend: Blend) -> bool:
    """Whether the blend chooses something on held-out rows: its weights, or its scale."""
    return "loss" in RULES[blend.rule].needs or blend.scale == "held_out"


def _sums_updates(blend: Blend, modules: Sequence[AnyModule]) -> bool:
    merging = [module for module in modules if not module.only_ranked]
    return bool(merging) and "lora" in fitting_space(blend.space, merging, rank=blend.rank).needs


def candidates_of(modules: Sequence[AnyModule], scores: Sequence[float] | None) -> list[Candidate]:
    """The modules as rules see them; variants that cannot be merged have no score."""
    values = [math.nan] * len(modules) if scores is None else scores
    candidates = []
    for module, value in zip(modules, values, strict=True):
        merges = not module.only_ranked
        candidates.append(Candidate(module.name, module.card.family, value if merges else math.nan, merges))
    return candidates


def _scores(ranking: Ranking, blend: Blend) -> Sequence[float]:
    known = ranking.scores.values
    if blend.indicator in known:
        return known[blend.indicator]
    wanted = f"the ranking holds no scores by '{blend.indicator}'"
    if not known:
        raise SettingError(f"{wanted}, nor by another indicator; rank by it first")
    raise SettingError(
        f"{wanted}, but by {', '.join(known)}; rank by it too, or name one of these in the blend "
        f"({blend.rule}:indicator={next(iter(known))})"
    )


def _left_out(ranking: Ranking, blend: Blend, candidates: Sequence[Candidate]) -> tuple[Refused, ...]:
    """The refused modules, and ranked ones that cannot have a weight, each with the reason."""
    found = list(ranking.refused)
    needs_scores = "scores" in RULES[blend.rule].needs
    reasons = ranking.scores.reasons.get(blend.indicator, {})
    for module, candidate in zip(ranking.modules, candidates, strict=True):
        if module.only_ranked:
            found.append(Refused(module.name, f"{module.only_ranked}, which can be ranked but not merged"))
        elif needs_scores and not math.isfinite(candidate.score):
            found.append(Refused(module.name, reasons.get(module.name, f"it has no value of '{blend.indicator}'")))
    return tuple(found)
