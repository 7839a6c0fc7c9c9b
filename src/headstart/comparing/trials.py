"""A comparison as units of work: modules scored on every draw, and starts tested, tuned and tested again."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from headstart.backbones import BackboneInput
from headstart.blending.ensemble import unscored
from headstart.comparing.methods.contract import Pool
from headstart.comparing.starting import Beginning
from headstart.indicators import make_indicator
from headstart.ranking.rank import Ranking, require_defined
from headstart.ranking.scoring import Scoring
from headstart.tasks import Task
from headstart.tuning.recipes import Recipe
from headstart.tuning.tune import Tuned, text_format_of
from headstart.tuning.unit import EvaluateUnit, TuneUnit
from headstart.units import Content, Results, Unit

__all__ = ["Trial", "plan_trials", "rank_draws"]


def rank_draws(
    draws: Sequence[Task],
    pool: Pool,
    *,
    indicators: Mapping[str, Sequence[str]],
    recipe: Recipe,
    run: Callable[..., Results],
) -> list[dict[str, Ranking]]:
    """The pool's rankings of every draw, by reduction; all are one graph, so that reference modules are tuned as lanes.

    `indicators`: the specs to compute, by reduction. `run` runs units.
    """
    planned: list[dict[str, Scoring]] = []
    for seed, draw in enumerate(draws):
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
    return [
        {
            reduction: Ranking(pool.modules, draw[reduction].table(found).reduce(reduction), (), None)
            if reduction in draw
            else unscored(pool.modules, reduction)
            for reduction in indicators
        }
        for draw in planned
    ]


@dataclass(frozen=True, eq=False)
class Trial:
    """One start: tested (`None` if it cannot answer before it is tuned), tuned, and tested again."""

    begun: Beginning
    before: EvaluateUnit | None
    tuning: TuneUnit
    after: EvaluateUnit

    def units(self) -> list[Unit]:
        """Everything that is to be run."""
        return [*([self.before] if self.before else []), self.tuning, self.after]

    def zero_shot(self, found: Results) -> dict[str, Any] | None:
        """The test before tuning: score, decoding and seconds."""
        return None if self.before is None else _tested(self.before, found)

    def tuned(self, found: Results) -> tuple[Tuned, dict[str, Any]]:
        """How the tuning went, and the test after it."""
        return self.tuning.tuned(found.of(self.tuning)), _tested(self.after, found)


def plan_trials(
    draw: Task, beginnings: Sequence[Beginning], pool: Pool, *, recipe: Recipe, decoding: str
) -> list[Trial]:
    """The trials of one draw. Equal starts give equal units, which are tuned once."""
    identity, text_format = BackboneInput.of(pool.backbone), text_format_of(recipe)
    rows = Content(draw.test, draw.fingerprint("test"))
    trials = []
    for begun in beginnings:
        name = f"seed {begun.seed}, {begun.label}"
        tuning = TuneUnit.of(draw, identity, start=begun.module, recipe=recipe, seed=begun.seed, name=begun.label)
        headless = pool.backbone.is_encoder and begun.module.head is None
        before, after = (
            EvaluateUnit(identity, module, rows, draw.card.metric, decoding, text_format, name=f"{name}, {stage}")
            for module, stage in ((begun.module, "untuned"), (tuning, "tuned"))
        )
        trials.append(Trial(begun, None if headless else before, tuning, after))
    return trials


def _tested(unit: EvaluateUnit, found: Results) -> dict[str, Any]:
    result = found.of(unit)
    evaluation = unit.evaluation(result)
    return {"score": evaluation.score, "decoding": evaluation.decoding, "seconds": result.seconds}
