"""The whole road in one call: rank, weigh, guard, tune; from a hub and a task to a module that can be used."""

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from importlib.metadata import version
from typing import Any

import pandas as pd

from headstart.backbones import Backbone, BackboneLike, backbone_loaders
from headstart.blending.ensemble import blend_note, checked_blend
from headstart.blending.given import BlendLike, as_blend
from headstart.comparing.methods.contract import Draw
from headstart.comparing.starting import Beginning, begin_all
from headstart.evaluating.calibration import calibrate
from headstart.evaluating.evaluation import Evaluation
from headstart.events import Event, Listener, Note, Stage, UnitEvent
from headstart.fitting.defaults import DEFAULTS
from headstart.fitting.guard import Guard, pool_of
from headstart.fitting.lacking import lacking
from headstart.fitting.large import LargeHub
from headstart.fitting.last import Asked, Last
from headstart.fitting.record import FIT_FRAMES, FitRecord, Fitted
from headstart.fitting.verdict import Verdict
from headstart.kinds import AnyModule, backbone_for
from headstart.ranking.rank import OWN, HubLike, Ranking, load_modules, opened, plain_modules, rank, tell_left_out
from headstart.ranking.retrieve import Retrieval
from headstart.ranking.scoring import scoring_examples
from headstart.showing import call_text, plural
from headstart.tasks import TaskLike, as_task
from headstart.tasks.baselines import chance
from headstart.tasks.example import seeded_order
from headstart.tuning.recipes import Recipe, as_recipe
from headstart.tuning.tune import Tuned
from headstart.units import AnyStore, Later, PlannedOnly, Results, Store, Unit, here
from headstart.units import run as run_units

__all__ = ["fit"]

STAGES = 3
"""Ranking, the guard, and the last tuning with what explains it."""

Run = Callable[..., Results]


def fit(
    task: TaskLike,
    hub: HubLike,
    backbone: BackboneLike | None = None,
    *,
    starts: str | Sequence[str] = DEFAULTS.starts,
    blend: BlendLike = DEFAULTS.blend,
    shots: int | None = None,
    folds: int = DEFAULTS.folds,
    held_out: int = DEFAULTS.held_out,
    recipe: Recipe | str = DEFAULTS.recipe,
    name: str | None = None,
    license: str = "",  # noqa: A002 - the field's own word, as on model cards
    decoding: str = "auto",
    calibration: str = "auto",
    retrieve: Retrieval | int | None = None,
    test_rows: int = DEFAULTS.test_rows,
    seed: int = 0,
    store: AnyStore = None,
    engine: str = "serial",
    progress: Listener | None = None,
) -> Fitted:
    """A tuned module for a task, begun from a start out of the hub if that is shown to help, else from scratch.

    The hub's modules are ranked on the dev rows and blended into starts; the guard holds rows out and finds whether any
    of these is better than scratch and than a random module (see `guard`); then the chosen one is tuned on all rows of
    train, and its state and calibration are chosen on those of dev. The test split decides nothing.

    >>> fitted = hs.fit(task, "my-hub", backbone, recipe=short, folds=2, held_out=3)
    >>> fitted
    Fitted(reviews; abstain: tuned from scratch; test ACC 0.5 on 6 rows)
    >>> hs.predict(fitted, [{"input": "the play is warm"}], backbone)[["input", "label"]]
                  input label
    0  the play is warm   bad

    Args:
        task: with train and dev splits; a test split, if there is one, gives the score that is reported.
        hub: a hub, or a list of modules.
        backbone: the frozen model; `None` is the one that the modules name.
        starts: what may be used, as methods of `compare`.
        blend: how "ensemble" is made; the other blending methods take their indicator and space from it.
        shots: draw so many rows per class (four times as many without classes) from train and dev; `None` takes all.
        folds, held_out: see `guard`.
        recipe: how every method is tuned.
        name: of the module; `None` is the task's name.
        license: of the module, for its card.
        decoding: as in `evaluate`.
        calibration: as in `tune`.
        retrieve: of a larger hub, only so many modules take part, retrieved by a reference module that is tuned on the
            rows of train (for a fold, on those of the others), or as a `Retrieval` says; `None`: `DEFAULTS.retrieved`
            of a hub of more than `DEFAULTS.all_raced`, else all. If more than `DEFAULTS.all_scored` take part, they
            race.
        test_rows: at most so many test rows are answered.
        seed: of the draw, the folds, fresh modules and the order of rows.
        store: where finished work is kept, so that a second run only reads it; `None` is the user's store, `False`
            keeps nothing.
        engine: where work is computed: "serial", or "processes=N".
        progress: hears how far the work has come and what became of every unit.

    Raises:
        HubError, MergeError, ModuleError, SettingError, TaskError: see `rank`, `guard` and `tune`. What cannot work is
            refused before any pass.
        StoreError: the store cannot be written.
    """
    call = call_text(fit, locals())
    task, chosen, hub = as_task(task), as_recipe(recipe), opened(hub)
    backbone = backbone_for(hub, backbone)
    drawn = task if shots is None else task.few_shot(k=shots, seed=seed)
    base = checked_blend(as_blend(blend), task.card)
    modules, refused = load_modules(hub, backbone, progress=progress)
    guard = Guard.of(
        drawn, pool_of(modules, base, backbone=backbone), starts=starts, blend=base, folds=folds, held_out=held_out,
        recipe=chosen, decoding=decoding, calibration=calibration, seed=seed,
    )  # fmt: skip
    large = LargeHub.of(len(guard.pool.modules), guard.methods, retrieve=retrieve)
    variants = plain_modules(modules)[1]
    tell_left_out(variants, progress)
    refused += variants
    if progress:
        for one in refused:
            progress(Note(f"left out {one.name}: {one.reason}"))
    asked = Asked(drawn, tuple(refused), base, chosen, name or task.name, license, test_rows, seed)
    with Store.opened(store) as kept:
        clock = _Clock(progress)
        run = partial(run_units, store=kept, engine=engine, loaders=backbone_loaders(backbone), listener=clock)
        how: dict[str, Any] = {"store": kept, "engine": engine, "progress": clock}
        ranker = None if large is None else large.ranker(**how)
        ranked = partial(
            ranker or partial(rank, **how), drawn, guard.pool.modules, backbone, recipe=chosen, seed=seed,
            retrieve=None if large is None else large.retrieval,
        )  # fmt: skip
        found = _Fit(asked, guard, run, clock, here(engine), large, ranker).fitted(ranked)
    return replace(found, record=replace(found.record, settings={**found.record.settings, "call": call}))


class _Clock:
    """Hears what became of units, passes it on, and knows how long each took, in whichever run it was computed."""

    def __init__(self, listener: Listener | None) -> None:
        self.listener, self.seconds, self.told = listener, dict[str, float](), False

    def __call__(self, event: Event) -> None:
        if isinstance(event, UnitEvent) and event.state in ("computed", "reused"):
            self.seconds[event.key] = event.seconds or 0.0
        own = isinstance(event, Note) and OWN in event.text
        if own and self.told:
            return  # every ranking of a fit would tell it again
        self.told = self.told or own
        if self.listener is not None:
            self.listener(event)

    def stage(self, what: str, number: int) -> None:
        """Tell that a stage begins."""
        self(Stage(what, number, STAGES))


@dataclass(frozen=True, eq=False)
class _Fit:
    """One fit, stage by stage: rank, guard, tune and explain."""

    asked: Asked
    guard: Guard
    run: Run
    clock: _Clock
    merging: str
    large: LargeHub | None
    ranker: Callable[..., Ranking] | None
    """Ranks modules for a task by a race, in a large hub."""

    @property
    def backbone(self) -> Backbone:
        """The frozen model."""
        return self.guard.pool.backbone

    def fitted(self, ranked: Callable[..., Ranking]) -> Fitted:
        """All stages; `ranked` ranks on all rows. Raises `PlannedOnly` with what follows, where nothing is computed."""
        rankings = self.rankings(ranked)
        self.clock.stage(f"guarding the starts on {plural(len(self.guard.folds), 'fold')}", 2)
        try:
            verdict = self.guard.verdict(self.run, merging=self.merging, large=self.large, ranker=self.ranker)
        except PlannedOnly as dry:
            raise dry.followed_by(self.later()) from None
        return self.finished(rankings, verdict)

    def rankings(self, ranked: Callable[..., Ranking]) -> dict[str, Ranking]:
        """The rankings on the dev rows, by reduction, each by all indicators that the starts need."""
        wanted = {reduction: specs for reduction, specs in self.guard.indicators().items() if specs}
        if not wanted:
            wanted = {self.asked.blend.reduction: (self.asked.blend.indicator,)}
        self.clock.stage(f"ranking {plural(len(self.guard.pool.modules), 'module')}", 1)
        try:
            return {
                reduction: replace(ranked(indicators=specs, reduction=reduction), refused=self.asked.refused)
                for reduction, specs in wanted.items()
            }
        except PlannedOnly as dry:
            guard, large = self.guard, self.large
            lists = {} if large is None else large.later(guard.folds, guard.pool, recipe=self.asked.recipe)
            scores = guard.scores_later(large)
            raise dry.followed_by(lists, scores, guard.later(merges=True), self.later()) from None

    def finished(self, rankings: Mapping[str, Ranking], verdict: Verdict) -> Fitted:
        """The chosen start is tuned on all rows of train; the start that leads is made, for its weights."""
        self.clock.stage(f"tuning the module from {verdict.method}", 3)
        labels = {verdict.method, verdict.leader}
        methods = [method for method in self.guard.methods if method.label in labels]
        first = next(iter(rankings.values()))
        pool = self.guard.pool.narrowed(_retrieved(first))
        names = {module.name for module in pool.modules}
        pooled = {reduction: _of(ranking, names) for reduction, ranking in rankings.items()}
        draw = Draw(
            self.asked.task, self.asked.seed, pool,
            lambda blend: pooled.get(blend.reduction, next(iter(pooled.values()))),
        )  # fmt: skip
        try:
            (begun,) = begin_all([draw], methods, run=partial(self.run, engine=self.merging))
        except PlannedOnly as dry:
            raise dry.followed_by(self.later(merges=False)) from None
        beginnings = {each.label: each for each in begun}
        ranking = rankings.get(self.asked.blend.reduction, first)
        last = Last.plan(
            self.asked, self.guard, beginnings[verdict.method], self.ordered(ranking),
            indicator=next(iter(ranking.scores.values), None),
        )  # fmt: skip
        found = self.run(last.units(), raising=False)
        for unit in last.needed():
            if unit.key in found.failed:
                found.or_raise()
        tuned = last.tuning.tuned(found.of(last.tuning)).made_for(
            last.choice.made(found), self.backbone.place, score=last.choice.dev_score(found)
        )
        tested = calibrate(last.test.evaluation(found.of(last.test)), last.choice.made(found))
        record = self.record(ranking, verdict, beginnings, tuned=tuned, tested=tested, last=last, found=found)
        return Fitted(tuned, ranking, verdict, record)

    def ordered(self, ranking: Ranking) -> list[AnyModule]:
        """The modules, the best first."""
        by_name = {module.name: module for module in ranking.modules}
        return [by_name[name] for name in ranking.frame()["module"]]

    def later(self, *, merges: bool = True) -> Later:
        """What follows the guard: the last tuning, its tests, and the explanations."""
        begun = Beginning(self.guard.methods[0], 0, self.guard.pool.shape.untuned(self.backbone, seed=0), None, "")
        specs = (spec for specs in self.guard.indicators().values() for spec in specs)
        usual = next(specs, self.asked.blend.indicator)
        last = Last.plan(self.asked, self.guard, begun, self.guard.pool.modules, indicator=usual)
        found: dict[str, tuple[int, Sequence[Unit]]] = {"merge": (1, ())} if merges else {}
        for name in dict.fromkeys(unit.type for unit in last.units()):
            units = [unit for unit in last.units() if unit.type == name]
            found[name] = (len(units), units)
        return found

    def record(
        self,
        ranking: Ranking,
        verdict: Verdict,
        beginnings: Mapping[str, Beginning],
        *,
        tuned: Tuned,
        tested: Evaluation,
        last: Last,
        found: Results,
    ) -> FitRecord:
        """Everything that the page shows."""
        asked = self.asked
        weights = _weights(beginnings.get(verdict.leader))
        frame = ranking.frame()
        frame.insert(list(frame.columns).index("license") + 1, "weight", frame["module"].map(weights).astype("float64"))
        families = {module.name: module.card.family for module in ranking.modules}
        frames = {
            "methods": verdict.table, "contrasts": verdict.contrasts, "ranking": frame,
            "refused": pd.DataFrame(
                [(each.name, each.reason) for each in ranking.refused], columns=list(FIT_FRAMES["refused"])
            ),
            "curve": pd.DataFrame([vars(point) for point in tuned.curve]),
            "answers": _answers(tested, seed=asked.seed),
            **last.explained.frames(found, families=families, weights=weights),
        }  # fmt: skip
        shown = next(iter(ranking.scores.values), None)
        bare = last.bare.values(found, reduction=asked.blend.reduction).get(str(shown), math.nan)
        lacks = "" if verdict.choice == "use" else lacking(ranking, shown, bare)
        leader = beginnings.get(verdict.leader)
        notes = [*asked.task.notes, *tuned.notes, *filter(None, [tuned.advice])]
        if self.large is not None:
            rows = len(scoring_examples(asked.task, seed=asked.seed))
            lists = self.large.lists(self.guard.pool, asked.task)
            notes += self.large.notes(tuple(ranking.scores.values), rows, lists=lists)
        if leader is not None and leader.start is not None:
            notes.append(f"{verdict.leader}: {blend_note(leader.start)}")
        settings = self.settings(ranking, tuned=tuned, tested=tested, bare=bare, unit=verdict.unit)
        return FitRecord(
            asked.task.card, settings, verdict.choice, verdict.method, verdict.leader, verdict.sentence, verdict.remedy,
            lacks, tested.score, len(tested.predictions), asked.split,
            frames, tuple(notes),
        )  # fmt: skip

    def settings(self, ranking: Ranking, *, tuned: Tuned, tested: Evaluation, bare: float, unit: str) -> dict[str, Any]:
        """Everything needed to repeat the fit."""
        asked, backbone, guard = self.asked, self.backbone, self.guard
        return {
            "backbone": backbone.name, "backbone_place": backbone.place, "fingerprint": backbone.fingerprint.weights,
            "modules": len(ranking.modules), "retrieved": len(_retrieved(ranking)),
            "blend": asked.blend.model_dump(mode="json", exclude_defaults=True) | {"rule": asked.blend.rule},
            "indicator": next(iter(ranking.scores.values), ""), "bare": bare,
            "chance": chance([*asked.task.train, *asked.task.dev], asked.task.card.metric)["score"],
            "starts": [method.label for method in guard.methods[2:]],
            "train_rows": len(asked.task.train), "dev_rows": len(asked.task.dev), "folds": len(guard.folds),
            "held_out": sum(len(fold.test) for fold in guard.folds), "loss_unit": unit,
            "seed": asked.seed, "recipe": asked.recipe.model_dump(mode="json"), "decoding": guard.decoding,
            "calibration": guard.calibration, "rank": tuned.module.card.rank,
            "best_step": tuned.best.step, "dev_score": tuned.module.card.score, "advice": tuned.advice,
            "dev_loss": tuned.best.dev_loss, "device": str(backbone.device),
            "dtype": str(backbone.dtype).removeprefix("torch."), "headstart": version("headstart"),
            "score_low": tested.interval[0], "score_high": tested.interval[1],
            "chosen_calibration": tested.calibration.method,
            "seconds": round(math.fsum(self.clock.seconds.values()), 1),
        }  # fmt: skip


def _retrieved(ranking: Ranking) -> tuple[AnyModule, ...]:
    """The modules that were scored."""
    stages = [standing.stage for standing in ranking.standings] or [""] * len(ranking.modules)
    return tuple(
        module for module, stage in zip(ranking.modules, stages, strict=True) if not stage.startswith("retrieved out")
    )


def _of(ranking: Ranking, names: Collection[str]) -> Ranking:
    """The ranking of some of its modules, who are no longer said to have been retrieved or raced."""
    kept = [place for place, module in enumerate(ranking.modules) if module.name in names]
    return replace(ranking.of(kept), standings=())


def _weights(begun: Beginning | None) -> dict[str, float]:
    """The weights of a start by module; none if it is no blend."""
    if begun is None or begun.start is None:
        return {}
    start = begun.start
    return dict(zip(start.ranking.scores.names, start.merged.weights, strict=True))


def _answers(tested: Evaluation, *, seed: int) -> pd.DataFrame:
    """Some predictions, drawn at random, in the order of the rows."""
    drawn = seeded_order(tested.examples, purpose="shown", seed=seed)[: DEFAULTS.shown_rows]
    frame = tested.frame().iloc[sorted(drawn)]
    return frame[list(FIT_FRAMES["answers"])].reset_index(drop=True)
