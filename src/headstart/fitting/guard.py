"""The guard: before a start is used, it meets scratch and the random module on rows that none of them has seen."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from headstart.backbones import BackboneLike, as_backbone, backbone_loaders
from headstart.blending import Blend
from headstart.blending.ensemble import checked_blend, require_fit
from headstart.blending.given import BlendLike, as_blend
from headstart.blending.held_out import require_held_out
from headstart.blending.start import reads_held_out
from headstart.comparing.comparison import SCRATCH
from headstart.comparing.decision import CONTROL
from headstart.comparing.methods.contract import Draw, Pool
from headstart.comparing.methods.parse import Compared, parse_methods
from headstart.comparing.starting import Beginning, at_equal_rank, begin_all, common_rank
from headstart.comparing.trials import Trial, plan_trials, rank_draws
from headstart.errors import SettingError
from headstart.evaluating.answering import check_decoding
from headstart.evaluating.calibration import calibrate
from headstart.evaluating.choice import possible_calibration
from headstart.evaluating.loss_unit import NATS, SQUARES
from headstart.events import Listener
from headstart.fitting.defaults import DEFAULTS
from headstart.fitting.folds import folds_of
from headstart.fitting.large import LargeHub
from headstart.fitting.verdict import Held, Verdict, decide_start
from headstart.indicators import make_indicator
from headstart.indicators.unit import ScoreUnit
from headstart.kinds import AnyModule, backbone_for
from headstart.ranking.rank import HubLike, Ranking, load_modules, opened, plain_modules, require_defined
from headstart.ranking.scoring import Scoring
from headstart.tasks import Task, TaskLike, as_task
from headstart.tasks.head import head_of
from headstart.tuning.recipes import Recipe, as_recipe
from headstart.tuning.tune import Tuned
from headstart.units import AnyStore, Later, PlannedOnly, Results, Store, Unit, here
from headstart.units import run as run_units

__all__ = ["Guard", "guard", "pool_of"]


def guard(
    task: TaskLike,
    hub: HubLike,
    backbone: BackboneLike | None = None,
    *,
    starts: str | Sequence[str] = DEFAULTS.starts,
    blend: BlendLike = DEFAULTS.blend,
    folds: int = DEFAULTS.folds,
    held_out: int = DEFAULTS.held_out,
    recipe: Recipe | str = "few-shot",
    decoding: str = "auto",
    calibration: str = "auto",
    seed: int = 0,
    store: AnyStore = None,
    engine: str = "serial",
    progress: Listener | None = None,
) -> Verdict:
    """Whether a start from this hub is to be used for a task, by cross-validation over the rows of train and dev.

    The rows are cut into folds. For every fold, the modules are scored on the others' dev rows, each start is made
    anew, and every method is tuned on the others' rows and answers the held-out ones; so no row has a part in what
    answers it. A blend that is chosen on held-out loss reads rows of these others, too. Scratch and the random module
    begin in the hub's commonest shape, the latter with the hub's norms. The test split is not read. See `decide_start`
    for the rule.

    Args:
        task: with train and dev splits, such as a few-shot draw.
        hub: a hub, or a list of modules.
        backbone: the frozen model; `None` is the one that the modules name.
        starts: what may be used, as methods of `compare`.
        blend: how "ensemble" is made; the other blending methods take their indicator and space from it.
        folds: into how many parts the rows are cut.
        held_out: at most so many rows are answered, drawn at random.
        recipe: how each method is tuned.
        decoding: as in `evaluate`.
        calibration: as in `compare`.
        seed: of the folds, and of the fresh modules and the order of rows in each.
        store: where scores, tuned modules and answers are kept; `None` is the user's store, `False` keeps nothing.
        engine: where they are computed: "serial", or "processes=N".
        progress: hears how far the work has come and what became of every unit.

    Raises:
        HubError, MergeError, SettingError, TaskError: see `compare` and `folds_of`.
        StoreError: the store cannot be written.
    """
    task, chosen, hub = as_task(task), as_recipe(recipe), opened(hub)
    backbone = backbone_for(hub, backbone)
    modules, _ = load_modules(hub, backbone, progress=progress)
    base = checked_blend(as_blend(blend), task.card)
    made = Guard.of(
        task, pool_of(modules, base, backbone=backbone), starts=starts, blend=base, folds=folds,
        held_out=held_out, recipe=chosen, decoding=decoding, calibration=calibration, seed=seed,
    )  # fmt: skip
    with Store.opened(store) as kept:
        run = partial(run_units, store=kept, engine=engine, loaders=backbone_loaders(backbone), listener=progress)
        return made.verdict(run, merging=here(engine))


def pool_of(modules: Sequence[AnyModule], blend: Blend, *, backbone: BackboneLike) -> Pool:
    """The modules that can be merged and tuned, at the rank at which methods are compared.

    Raises `HubError` if there are none.
    """
    kept, _ = plain_modules(modules)
    return Pool(tuple(kept), as_backbone(backbone), common_rank(kept, asked=blend.rank))


@dataclass(frozen=True, eq=False)
class Guard:
    """A guard whose folds are drawn and whose requests are checked; made by `of`, with the arguments of `guard`."""

    task: Task
    folds: tuple[Task, ...]
    held_out: int
    pool: Pool
    methods: tuple[Compared, ...]
    blend: Blend
    recipe: Recipe
    decoding: str
    calibration: str
    seed: int

    @classmethod
    def of(
        cls,
        task: Task,
        pool: Pool,
        *,
        starts: str | Sequence[str],
        blend: Blend,
        folds: int,
        held_out: int,
        recipe: Recipe,
        decoding: str,
        calibration: str,
        seed: int = 0,
    ) -> "Guard":
        """The guard; what cannot work is refused here, before any pass."""
        asked = [starts] if isinstance(starts, str) else [*starts]
        if always := [name for name in (SCRATCH, CONTROL) if name in asked]:
            raise SettingError(f"scratch and random take part in every fit; leave out {' and '.join(always)}")
        methods = []
        for method in parse_methods([SCRATCH, CONTROL, *asked], blend):
            own = None if method.blend is None else checked_blend(method.blend, task.card)
            if own is not None:
                require_fit(own, pool.modules, task.card)
                if method.needs_scores:
                    require_defined((own.indicator,), task, pool.backbone)
            methods.append(at_equal_rank(Compared(method.label, method.method, own), pool.rank))
        if len(methods) == 2:
            raise SettingError("there is no start to guard; name one of: average, best_single, ensemble")
        check_decoding(decoding, pool.backbone)
        possible_calibration(calibration, task, pool.backbone, decoding=decoding)
        cut = folds_of(task, count=folds, most=held_out, seed=seed)
        for method in methods:
            if method.blend is not None and reads_held_out(method.blend):
                require_held_out(cut[0], pool.backbone, split=method.blend.split)
        return cls(task, tuple(cut), held_out, pool, tuple(methods), blend, recipe, decoding, calibration, seed)

    def verdict(
        self,
        run: Callable[..., Results],
        *,
        merging: str,
        large: LargeHub | None = None,
        ranker: Callable[..., Ranking] | None = None,
    ) -> Verdict:
        """Score, merge and tune on every fold, and decide; `run` runs units, `merging` is the engine for merges.

        `large`: which modules take part in a fold, by its rows; `None`: all. `ranker`: ranks them on these rows in
        another way than by scoring all; see `rank_draws`. Raises `PlannedOnly` where `run` computes nothing.
        """
        first = self.seed * len(self.folds)  # each fold of each seed has a seed of its own
        pools = [self.pool] * len(self.folds)
        try:
            if large is not None:
                pools = large.pools(self.folds, self.pool, recipe=self.recipe, run=run, first=first)
        except PlannedOnly as dry:
            raise dry.followed_by(self.scores_later(large), self.later(merges=True)) from None
        try:
            ranked = rank_draws(
                self.folds, pools, indicators=self.indicators(), recipe=self.recipe, run=run, ranker=ranker,
                first=first,
            )  # fmt: skip
        except PlannedOnly as dry:
            raise dry.followed_by(self.later(merges=True)) from None
        draws = [
            Draw(fold, seed, pool, own.ranking)
            for seed, (fold, pool, own) in enumerate(zip(self.folds, pools, ranked, strict=True), first)
        ]
        try:
            begun = begin_all(draws, self.methods, run=partial(run, engine=merging))
        except PlannedOnly as dry:
            raise dry.followed_by(self.later(merges=False)) from None
        trials = [
            self._trials(draw.task, beginnings, part=f"fold {number} of {len(self.folds)}")
            for number, (draw, beginnings) in enumerate(zip(draws, begun, strict=True), 1)
        ]
        found = run([unit for fold in trials for trial in fold for unit in _units(trial)])
        answers = {
            method.label: _held([fold[place] for fold in trials], found) for place, method in enumerate(self.methods)
        }
        rows = [example for fold in self.folds for example in fold.test]
        folds = [place for place, fold in enumerate(self.folds) for _ in fold.test]
        card = self.task.card
        squares = self.pool.backbone.is_encoder and head_of(card).task == "regression"
        return decide_start(
            answers, rows, metric=card.metric, folds=folds, unit=SQUARES if squares else NATS,
            available=len(self.task.train) + len(self.task.dev), most=self.held_out,
        )  # fmt: skip

    def indicators(self) -> dict[str, tuple[str, ...]]:
        """The indicators that the methods need, by reduction; that of the blend first, if it is one of them."""
        asked: dict[str, dict[str, None]] = {self.blend.reduction: {}}
        for method in self.methods:
            if method.blend is not None:
                own = asked.setdefault(method.blend.reduction, {})
                own |= {method.blend.indicator: None} if method.needs_scores else {}
        usual = self.blend.indicator
        return {
            reduction: tuple(sorted(specs, key=lambda spec: (reduction, spec) != (self.blend.reduction, usual)))
            for reduction, specs in asked.items()
        }

    def scores_later(self, large: LargeHub | None) -> Later:
        """The scores on the folds, for a dry run."""
        specs = [make_indicator(spec) for each in self.indicators().values() for spec in each]
        if not specs:
            return {}
        some = Scoring.plan(
            self.folds[0], self.pool.modules[:1], self.pool.backbone, indicators=specs, recipe=self.recipe, seed=0
        )
        scored = len(self.pool.modules) if large is None else large.size
        return {ScoreUnit.type: (len(specs) * scored * len(self.folds), list(some.units.values()))}

    def later(self, *, merges: bool) -> Later:
        """What follows the scores, or the merges: how many units of each type, and some that they are like."""
        like = Beginning(self.methods[0], 0, self.pool.shape.untuned(self.pool.backbone, seed=0), None, "")
        (trial,) = self._trials(self.folds[0], [like])
        blended = sum(method.blend is not None for method in self.methods) * len(self.folds)
        found: dict[str, tuple[int, Sequence[Unit]]] = {"merge": (blended, ())} if merges and blended else {}
        for name in dict.fromkeys(unit.type for unit in _units(trial)):
            units = [unit for unit in _units(trial) if unit.type == name]
            found[name] = (len(units) * len(self.methods) * len(self.folds), units)
        return found

    def _trials(self, fold: Task, beginnings: Sequence[Beginning], *, part: str = "") -> list[Trial]:
        return plan_trials(
            fold, beginnings, self.pool, recipe=self.recipe, decoding=self.decoding, calibration=self.calibration,
            part=part,
        )  # fmt: skip


def _units(trial: Trial) -> list[Unit]:
    """Tuning and the test behind it: what a method answers before it is tuned decides nothing here."""
    return [trial.tuning, *trial.after.units()]


def _held(trials: Sequence[Trial], found: Results) -> Held:
    """The answers of one method to the held-out rows of all folds."""
    losses: list[float] = []
    predictions: list[str] = []
    tuned: list[Tuned] = []
    for trial in trials:
        plain = trial.after.unit.evaluation(found.of(trial.after.unit))
        answered = calibrate(plain, trial.after.choice.made(found))
        losses += answered.answer_losses
        predictions += answered.predictions
        tuned.append(trial.tuning.tuned(found.of(trial.tuning)))
    if not all(map(math.isfinite, losses)):
        return Held(np.array([]), (), reason="its answers have no loss: likelihoods that are not finite numbers")
    steps = float(np.mean([each.best.step for each in tuned]))
    seconds = float(np.mean([each.seconds for each in tuned]))
    return Held(np.array(losses), tuple(predictions), steps, seconds)
