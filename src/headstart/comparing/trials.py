"""A comparison as units of work: modules scored on every draw, and starts tested, tuned and tested again."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from headstart.backbones import Backbone, BackboneInput
from headstart.blending import Blend
from headstart.blending.ensemble import unscored
from headstart.comparing.costs import Tokens, tokens_of_scores
from headstart.comparing.methods.contract import Pool
from headstart.comparing.methods.parse import Compared
from headstart.comparing.starting import Beginning
from headstart.evaluating.calibration import calibrate
from headstart.evaluating.choice import CalibrationChoice
from headstart.evaluating.unit import EvaluateUnit
from headstart.indicators import make_indicator
from headstart.indicators.unit import ScoreUnit
from headstart.kinds import Module
from headstart.ranking.rank import Ranking, require_defined
from headstart.ranking.scoring import Scoring
from headstart.tasks import Task
from headstart.tuning.recipes import Recipe
from headstart.tuning.tune import Tuned, text_format_of
from headstart.tuning.unit import TuneUnit
from headstart.units import Content, Context, PlannedOnly, Results, Unit

__all__ = ["Ranked", "Tested", "Trial", "bare_baseline", "bare_test", "plan_trials", "rank_draws"]


@dataclass(frozen=True, eq=False)
class Ranked:
    """The pool's rankings of one draw, by reduction, and the units that they were made of, where these are known."""

    by_reduction: Mapping[str, Ranking]
    scorings: Mapping[str, Scoring]
    found: Results | None

    def ranking(self, blend: Blend) -> Ranking:
        """The ranking that a blend reads."""
        return self.by_reduction[blend.reduction]

    def spent(self, compared: Compared, context: Context) -> Tokens:
        """What the scores that a method reads took; nothing if it reads none, or if that is not known."""
        if compared.blend is None or not compared.needs_scores or self.found is None:
            return Tokens()
        scoring = self.scorings[compared.blend.reduction]
        return tokens_of_scores(scoring, compared.blend.indicator, self.found, context)


def rank_draws(
    draws: Sequence[Task],
    pools: Sequence[Pool],
    *,
    indicators: Mapping[str, Sequence[str]],
    recipe: Recipe,
    run: Callable[..., Results],
    ranker: Callable[..., Ranking] | None = None,
    first: int = 0,
) -> list[Ranked]:
    """The rankings of every draw's pool; all are one graph, so that reference modules are tuned as lanes.

    `indicators`: the specs to compute, by reduction. `run` runs units. `ranker`: ranks one draw after the other
    instead, such as by a race, whose rounds depend on each other; it takes what `rank` takes, and what its scores took
    is not known to `Ranked.spent`. `first`: the seed of the first draw, of which the others follow.
    """
    if ranker is not None:
        return _one_by_one(draws, pools, indicators=indicators, ranker=partial(ranker, recipe=recipe), first=first)
    planned: list[dict[str, Scoring]] = []
    for seed, (draw, pool) in enumerate(zip(draws, pools, strict=True), first):
        planned.append({})
        for reduction, specs in indicators.items():
            if specs:
                require_defined(specs, draw, pool.backbone)
                planned[-1][reduction] = Scoring.plan(
                    draw, pool.modules, pool.backbone, indicators=[make_indicator(spec) for spec in specs],
                    recipe=recipe, seed=seed,
                )  # fmt: skip
    units: list[Unit] = [unit for draw in planned for scoring in draw.values() for unit in scoring.all_units()]
    found = run(units, raising=False)
    ranked = []
    for pool, scorings in zip(pools, planned, strict=True):
        rankings = {
            reduction: Ranking(pool.modules, scorings[reduction].table(found).reduce(reduction), (), None)
            if reduction in scorings
            else unscored(pool.modules, reduction)
            for reduction in indicators
        }
        ranked.append(Ranked(rankings, scorings, found))
    return ranked


def _one_by_one(
    draws: Sequence[Task],
    pools: Sequence[Pool],
    *,
    indicators: Mapping[str, Sequence[str]],
    ranker: Callable[..., Ranking],
    first: int,
) -> list[Ranked]:
    """The rankings of every draw, each made by `ranker`."""
    ranked = []
    specs = sum(map(len, indicators.values()))
    for place, (draw, pool) in enumerate(zip(draws, pools, strict=True)):
        seed = first + place
        try:
            rankings = {
                reduction: ranker(draw, pool.modules, pool.backbone, indicators=specs, reduction=reduction, seed=seed)
                if specs
                else unscored(pool.modules, reduction)
                for reduction, specs in indicators.items()
            }
        except PlannedOnly as dry:
            rest = specs * sum(len(each.modules) for each in pools[place + 1 :])
            raise (dry.followed_by({ScoreUnit.type: (rest, ())}) if rest else dry) from None
        ranked.append(Ranked(rankings, {}, None))
    return ranked


@dataclass(frozen=True, eq=False)
class Tested:
    """One module on the test rows, and the choice of its calibration on the draw."""

    unit: EvaluateUnit
    choice: CalibrationChoice

    def units(self) -> list[Unit]:
        """Everything that is to be run."""
        return [self.unit, *self.choice.units]

    def found(self, found: Results) -> dict[str, Any]:
        """Score, decoding, seconds and predictions, with the chosen calibration and without one."""
        result = found.of(self.unit)
        plain = self.unit.evaluation(result)
        calibrated = calibrate(plain, self.choice.made(found))
        return {
            "score": calibrated.score, "decoding": plain.decoding, "seconds": result.seconds,
            "predictions": calibrated.predictions, "calibration": calibrated.calibration.method,
            "uncalibrated": plain.score, "uncalibrated_predictions": plain.predictions,
        }  # fmt: skip


@dataclass(frozen=True, eq=False)
class Trial:
    """One start: tested (`None` if it cannot answer before it is tuned), tuned, and tested again."""

    begun: Beginning
    before: Tested | None
    tuning: TuneUnit
    after: Tested

    def units(self) -> list[Unit]:
        """Everything that is to be run."""
        return [*(self.before.units() if self.before else []), self.tuning, *self.after.units()]

    def zero_shot(self, found: Results) -> dict[str, Any] | None:
        """The test before tuning; see `Tested.found`."""
        return None if self.before is None else self.before.found(found)

    def tuned(self, found: Results, *, place: str) -> tuple[Tuned, dict[str, Any]]:
        """How the tuning went, and the test after it; `place` is the backbone's."""
        choice = self.after.choice
        tuned = self.tuning.tuned(found.of(self.tuning)).made_for(
            choice.made(found), place, score=choice.dev_score(found)
        )
        return tuned, self.after.found(found)


def plan_trials(
    draw: Task,
    beginnings: Sequence[Beginning],
    pool: Pool,
    *,
    recipe: Recipe,
    decoding: str,
    calibration: str,
    part: str = "",
) -> list[Trial]:
    """The trials of one draw. Equal starts give equal units, which are tuned once.

    Every test chooses its own calibration, before tuning and after it, on the draw. `part`: what progress calls the
    draw; "" is its seed.
    """
    backbone = pool.backbone
    rows = Content(draw.test, draw.fingerprint("test"))

    def test(module: Module | TuneUnit, own: Recipe, name: str) -> Tested:
        layout = text_format_of(own)
        identity = BackboneInput.of(backbone, layout)
        unit = EvaluateUnit(identity, module, rows, draw.card.metric, decoding, layout, name=name)
        return Tested(unit, CalibrationChoice.plan(unit, draw, backbone, method=calibration))

    trials = []
    for begun in beginnings:
        name = f"{begun.label}, {part or f'seed {begun.seed}'}"
        own = recipe if backbone.encoder.whole else recipe.laid_out_as(begun.module.card.text_format)
        identity = BackboneInput.of(backbone, text_format_of(own))
        tuning = TuneUnit.of(
            draw, identity, start=begun.module, recipe=own, seed=begun.seed, name=begun.label, part=part
        )
        headless = backbone.is_encoder and begun.module.head is None
        before = None if headless else test(begun.module, own, f"{name}, untuned")
        trials.append(Trial(begun, before, tuning, test(tuning, own, f"{name}, tuned")))
    return trials


def bare_test(
    task: Task, draw: Task, backbone: Backbone, *, recipe: Recipe, decoding: str, calibration: str
) -> Tested | None:
    """The test of the backbone with nothing attached, calibrated as the methods are, on the rows of one draw.

    `None` on an encoder, which only answers through a head.
    """
    if backbone.is_encoder:
        return None
    rows = Content(task.test, task.fingerprint("test"))
    text_format = text_format_of(recipe)
    identity = BackboneInput.of(backbone, text_format)
    unit = EvaluateUnit(identity, None, rows, task.card.metric, decoding, text_format, name="the bare backbone")
    return Tested(unit, CalibrationChoice.plan(unit, draw, backbone, method=calibration))


def bare_baseline(bare: Tested | None, found: Results) -> dict[str, Any]:
    """The score of the backbone with nothing attached, as a row of baselines."""
    if bare is None:
        reason = "an encoder answers through a task head, which the bare backbone does not have"
        return {"name": "backbone", "score": math.nan, "note": reason}
    plain = bare.unit.evaluation(found.of(bare.unit))
    calibrated = calibrate(plain, bare.choice.made(found))
    score, method = calibrated.score, calibrated.calibration.method
    note = "no module, nothing tuned, no calibration"
    if method != "none":
        how = f"{method}, from the rows of the first draw" if bare.choice.units else method
        note = f"no module, nothing tuned; calibrated ({how}), without {plain.score:.3f}"
    if math.isnan(score):
        note = f"{bare.unit.metric} is undefined for these predictions"
    return {"name": "backbone", "score": score, "note": note}
