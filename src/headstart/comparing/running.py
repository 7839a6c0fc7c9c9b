"""One comparison as it runs: what is computed of it, in which order, and what is recorded."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from importlib.metadata import version
from typing import Any

import pandas as pd

from headstart.blending import Blend
from headstart.blending.ensemble import blend_note, weight_table
from headstart.comparing.comparison import FRAMES, Comparison
from headstart.comparing.costs import Tokens
from headstart.comparing.examples import example_rows
from headstart.comparing.methods.contract import Draw, Pool
from headstart.comparing.methods.parse import Compared
from headstart.comparing.starting import Beginning, begin_all, same_start_notes, size_notes, starts_rows
from headstart.comparing.trials import Tested, Trial, bare_baseline, bare_test, plan_trials, rank_draws
from headstart.events import Listener, Stage
from headstart.kinds import Module
from headstart.ranking.rank import Ranking
from headstart.records import Refused
from headstart.showing import plural
from headstart.tasks import Task
from headstart.tasks.baselines import chance, majority
from headstart.tasks.few_shot import USUAL_SHOTS
from headstart.tuning.recipes import Recipe
from headstart.tuning.tune import Tuned
from headstart.units import Context, PlannedOnly, Results, Unit

__all__ = ["Asked", "Run"]

TEST_NOTE = (
    "The test split was used for the reported scores only; states were chosen on the dev draw. The intervals say how "
    "much other rows than these {rows} would change and, from 6 seeds on, other seeds (draws, fresh modules, orders)."
)

STAGES = 3
"""The ranking, the starts, and the tunings with their tests."""

UNTUNED_HEAD = "a fresh task head answers at random until it is tuned"


@dataclass(frozen=True, eq=False)
class Asked:
    """What is compared, and how."""

    task: Task
    methods: tuple[Compared, ...]
    base: Blend
    shown: tuple[str, ...]
    recipe: Recipe
    decoding: str
    calibration: str
    seeds: int
    keep: str | None

    @property
    def subject(self) -> Compared:
        """Whose weights the ranking shows: the ensemble, else the first blend by scores, else the last method."""
        blends = [method for method in self.methods if method.method.name == "ensemble"]
        scored = [method for method in self.methods if method.needs_scores]
        return [*blends, *scored, self.methods[-1]][0]

    def indicators(self) -> dict[str, tuple[str, ...]]:
        """The indicators to compute, by reduction: the subject's, the other methods', and those to show."""
        ordered = [self.subject, *self.methods]
        blends = [method.blend for method in ordered if method.blend is not None]
        asked: dict[str, dict[str, None]] = {blend.reduction: {} for blend in (*blends, self.base)}
        for method in ordered:
            if method.blend is not None and method.needs_scores:
                asked[method.blend.reduction][method.blend.indicator] = None
        asked[self.base.reduction] |= dict.fromkeys(self.shown)
        return {reduction: tuple(specs) for reduction, specs in asked.items()}


class Run:
    """One comparison as it grows, seed by seed: `all` computes and records it, `result` is the record."""

    def __init__(self, asked: Asked, pool: Pool, *, merging: str, listener: Listener | None) -> None:
        self.asked, self.pool, self.merging, self.listener = asked, pool, merging, listener
        names = ("missing", "starts", "scores", "curves", "answers", "baselines")
        self.frames: dict[str, list[dict[str, Any]]] = {name: [] for name in names}
        self.rankings: list[pd.DataFrame] = []
        self.notes: list[str] = []
        self.decoding = ""
        self.seconds: dict[str, float] = {}
        self.tuned: dict[str, Tuned] = {}

    def all(self, draws: Sequence[Task], run: Callable[..., Results], context: Context) -> None:
        """Rank on every draw, merge every start, then test, tune and test again: three graphs, each over all draws.

        Weights depend on scores, and a tuning's key on the contents of its start; so equal starts are tuned once.
        `context` says what was read.
        """
        asked, run = self.asked, partial(self._timed, run)
        draws_text, methods_text = plural(len(draws), "draw"), plural(len(asked.methods), "method")
        self._stage(f"ranking {plural(len(self.pool.modules), 'module')} on {draws_text}", 1)
        try:
            pools = [self.pool] * len(draws)
            ranked = rank_draws(draws, pools, indicators=asked.indicators(), recipe=asked.recipe, run=run)
        except PlannedOnly as dry:
            raise dry.followed_by(self._later(draws, merges=True)) from None
        drawn = [
            Draw(draw, seed, self.pool, own.ranking) for seed, (draw, own) in enumerate(zip(draws, ranked, strict=True))
        ]
        self._stage(f"making the starts of {methods_text}", 2)
        try:
            begun = begin_all(drawn, asked.methods, run=partial(run, engine=self.merging))
        except PlannedOnly as dry:
            raise dry.followed_by(self._later(draws, merges=False)) from None
        trials: list[Trial] = []
        for draw, beginnings in zip(drawn, begun, strict=True):
            self._record(draw.ranking(asked.subject.blend or asked.base), beginnings, draw.seed)
            trials += plan_trials(
                draw.task, beginnings, self.pool, recipe=asked.recipe, decoding=asked.decoding,
                calibration=asked.calibration,
            )  # fmt: skip
        bare = self._bare(draws)
        self._stage(f"tuning and testing {methods_text} on {draws_text}", 3)
        found = run([*(unit for trial in trials for unit in trial.units()), *(bare.units() if bare else [])])
        for trial in trials:
            self._add_trial(trial, found, ranked[trial.begun.seed].spent(trial.begun.compared, context), context)
        self.notes += dict.fromkeys(note for draw in draws for note in draw.notes if note not in asked.task.notes)
        self.frames["baselines"] += [
            chance(asked.task.test, asked.task.card.metric),
            majority(asked.task, draws),
            bare_baseline(bare, found),
        ]

    def _stage(self, what: str, number: int) -> None:
        if self.listener is not None:
            self.listener(Stage(what, number, STAGES))

    def _bare(self, draws: Sequence[Task]) -> Tested | None:
        """The test of the backbone with nothing attached."""
        asked = self.asked
        return bare_test(
            asked.task, draws[0], self.pool.backbone, recipe=asked.recipe, decoding=asked.decoding,
            calibration=asked.calibration,
        )  # fmt: skip

    def _later(self, draws: Sequence[Task], *, merges: bool) -> dict[str, tuple[int, Sequence[Unit]]]:
        """What follows the scores, or the merges: how many units of each type, and some that they are like.

        Methods that arrive at the same start share its tuning and tests, so it may be less.
        """
        asked, pool = self.asked, self.pool
        like = Beginning(asked.methods[0], 0, pool.shape.untuned(pool.backbone, seed=0), None, "")
        (trial,) = plan_trials(
            draws[0], [like], pool, recipe=asked.recipe, decoding=asked.decoding, calibration=asked.calibration
        )
        blended = sum(method.blend is not None for method in asked.methods) if merges else 0
        found: dict[str, tuple[int, Sequence[Unit]]] = {"merge": (blended * len(draws), ())} if blended else {}
        for name in dict.fromkeys(unit.type for unit in trial.units()):
            units = [unit for unit in trial.units() if unit.type == name]
            found[name] = (len(units) * len(asked.methods) * len(draws), units)
        bare = self._bare(draws)
        if bare is not None:
            count, tests = found[bare.unit.type]
            found[bare.unit.type] = (count + len(bare.units()), tests)
        return found

    def _timed(self, run: Callable[..., Results], units: Sequence[Unit], **how: Any) -> Results:
        """Run units and record how long each took, in whichever run it was computed."""
        found = run(units, **how)
        self.seconds |= {key: result.seconds or 0.0 for key, result in found.items()}
        return found

    def _record(self, ranking: Ranking, beginnings: Sequence[Beginning], seed: int) -> None:
        """Record the ranking with the subject's weights, the scores without a value, and where every method begins."""
        (subject,) = (begun for begun in beginnings if begun.label == self.asked.subject.label)
        if subject.start is not None:
            frame = weight_table(subject.start)
            self.notes.append(f"seed {seed}: {blend_note(subject.start)}")
        else:
            frame = ranking.frame().assign(weight=math.nan)
        self.rankings.append(frame.assign(seed=seed))
        self.frames["missing"] += [
            {"seed": seed, "indicator": indicator, "module": module, "reason": reason}
            for indicator, reasons in ranking.scores.reasons.items()
            for module, reason in reasons.items()
        ]
        self.frames["starts"] += starts_rows(beginnings)

    def _add_trial(self, trial: Trial, found: Results, scored: Tokens, context: Context) -> None:
        """Record both tests and the curve of one method on one seed; `scored`: what its scores took."""
        begun = trial.begun
        untested: dict[str, Any] = {
            "score": math.nan, "decoding": "head", "seconds": 0.0, "reason": UNTUNED_HEAD, "predictions": (),
            "calibration": "none", "uncalibrated": math.nan, "uncalibrated_predictions": (),
        }  # fmt: skip
        before = trial.zero_shot(found) or untested
        tuned, after = trial.tuned(found, place=self.pool.backbone.place)
        if self.asked.keep is not None and not begun.same_as:
            self.tuned[f"{begun.label}-seed{begun.seed}"] = tuned
        road = scored.plus([trial.tuning.taken(found.of(trial.tuning), context)])
        self._add(begun, before, stage="zero-shot", steps=math.nan, seconds=before["seconds"], tokens=scored)
        self._add(begun, after, stage="tuned", steps=tuned.best.step, seconds=tuned.seconds, tokens=road)
        self.frames["curves"] += [
            {"method": begun.label, "seed": begun.seed, "step": point.step, "dev_score": point.dev_score,
             "dev_loss": point.dev_loss}
            for point in tuned.curve
        ]  # fmt: skip

    def _add(
        self, begun: Beginning, found: dict[str, Any], *, stage: str, steps: float, seconds: float, tokens: Tokens
    ) -> None:
        metric, score = self.asked.task.card.metric, found["score"]
        undefined = found.get("reason", f"{metric} is undefined for these predictions")
        self.decoding = self.decoding or found["decoding"]
        self.frames["scores"].append(
            {
                "method": begun.label, "seed": begun.seed, "stage": stage, "split": "test", "metric": metric,
                "score": score, "reason": undefined if math.isnan(score) else "",
                "steps_to_best": steps, "seconds": seconds, "calibration": found["calibration"],
                "uncalibrated": found["uncalibrated"],
                "forward_tokens": tokens.forward, "backward_tokens": tokens.backward,
            }
        )  # fmt: skip
        answers = zip(found["predictions"], found["uncalibrated_predictions"], strict=True)
        self.frames["answers"] += [
            {"method": begun.label, "seed": begun.seed, "stage": stage, "row": row, "prediction": prediction,
             "uncalibrated": uncalibrated}
            for row, (prediction, uncalibrated) in enumerate(answers)
        ]  # fmt: skip

    def settings(self, *, shots: int | None) -> dict[str, Any]:
        """Everything needed to repeat the comparison, and the time that all units took together."""
        asked, backbone = self.asked, self.pool.backbone
        blends = {method.label: method.blend for method in asked.methods}
        return {
            "backbone": backbone.name, "fingerprint": backbone.fingerprint.weights,
            "modules": len(self.pool.modules), **(asked.subject.blend or asked.base).model_dump(mode="json"),
            "methods": list(blends), "subject": asked.subject.label,
            "compared_rank": self.pool.rank,
            "compared_layers": None if self.pool.rank is None else len(self.pool.shape.card.targets),
            "blends": {label: blend.model_dump(mode="json", exclude_defaults=True) | {"rule": blend.rule}
                       for label, blend in blends.items() if blend is not None},
            "shots": USUAL_SHOTS if shots is None else shots, "seeds": asked.seeds,
            "recipe": asked.recipe.model_dump(), "test_rows": len(asked.task.test),
            "decoding": self.decoding, "calibration": asked.calibration, "device": str(backbone.device),
            "dtype": str(backbone.dtype).removeprefix("torch."), "headstart": version("headstart"),
            "seconds": round(math.fsum(self.seconds.values()), 1),
        }  # fmt: skip

    def result(self, refused: Sequence[Refused], *, shots: int | None) -> Comparison:
        """The finished record."""
        task = self.asked.task
        seen = [module.name for module in self.pool.modules if module.card.task == task.name]
        starts = self.frames["starts"]
        notes = [*self.notes, *same_start_notes(starts), *size_notes(starts), TEST_NOTE.format(rows=len(task.test))]
        if seen:
            notes.append(f"Tuned on a task of this very name, so not unseen: {', '.join(seen)}.")
        rows = {
            **self.frames,
            "examples": example_rows(task.test),
            "refused": [{"module": each.name, "reason": each.reason} for each in refused],
        }
        return Comparison(
            task.card,
            self.settings(shots=shots),
            ranking=pd.concat(self.rankings, ignore_index=True),
            notes=tuple(notes),
            modules=_kept(self.tuned, self.asked.keep),
            **{name: pd.DataFrame(found, columns=list(FRAMES[name])) for name, found in rows.items()},
        )


def _kept(tuned: Mapping[str, Tuned], keep: str | None) -> dict[str, Module]:
    """The modules to keep, each called as what it was tuned on, its method and its seed."""
    names = list(tuned)
    if keep == "best" and names:
        # The dev score: the test rows decide nothing. NaN is the worst, and of equal ones the first is taken.
        names = [max(names, key=lambda name: _or_worst(tuned[name].best.dev_score))]
    found = {}
    for name in names:
        module = tuned[name].module
        card = module.card.model_copy(update={"name": f"{module.card.task}-{name}"})
        found[name] = replace(module, card=card)
    return found


def _or_worst(score: float) -> float:
    return -math.inf if math.isnan(score) else score
