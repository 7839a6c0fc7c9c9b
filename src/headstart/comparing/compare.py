"""The guarded comparison: scratch, average, best single and ensemble, before and after tuning, over several seeds."""

import hashlib
import json
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pandas as pd

from headstart.atomic import write_text
from headstart.backbones import Backbone
from headstart.blending import Blend, merge, one_hot, uniform
from headstart.blending.ensemble import Start, blend_note, blend_ranking, check_blend, require_fit, weight_table
from headstart.comparing.comparison import METHODS, Comparison
from headstart.errors import HubError, OutputError, SettingError, TaskError
from headstart.events import Event, Listener, Progress
from headstart.hub import Hub
from headstart.indicators import make_indicator
from headstart.indicators.table import Scores
from headstart.kinds import AnyModule, Module
from headstart.ranking.rank import Ranking, Refused, load_modules, rank, require_defined
from headstart.tasks import Task
from headstart.tasks.few_shot import USUAL_SHOTS
from headstart.tuning.evaluation import check_decoding, evaluate
from headstart.tuning.recipes import RECIPES, Recipe
from headstart.tuning.tune import text_format_of, tune
from headstart.units import AnyStore

__all__ = ["compare"]


TEST_NOTE = (
    "The test split was used for the reported scores only; states were chosen on the dev draw. The intervals are "
    "over seeds (draws, fresh modules, orders) on the same {rows} test rows; other rows are not in them."
)


UNTUNED_HEAD = "a fresh task head answers at random until it is tuned"


def compare(
    task: Task,
    hub: Hub | Sequence[AnyModule],
    backbone: Backbone,
    *,
    seeds: int = 3,
    shots: int | None = None,
    blend: Blend | None = None,
    indicators: Sequence[str] = (),
    recipe: Recipe | str = "few-shot",
    decoding: str = "auto",
    work: Path | None = None,
    store: AnyStore = None,
    engine: str = "serial",
    progress: Listener | None = None,
) -> Comparison:
    """Tune from four starts on few-shot draws of a task and test each, before and after.

    Every seed is another draw of training and dev rows, another fresh module and another order; all four methods of a
    seed share them. The test split is used for nothing but the reported scores.

    Args:
        task: with train and test splits (and a dev split, or enough training rows to draw one from).
        hub: a hub, or modules that were loaded before.
        backbone: the frozen model.
        seeds: how many, from 0.
        shots: rows per class (four times as many without classes); `None` is [PEWE]'s 16 and 64.
        blend: how the ensemble is made.
        indicators: further indicators to show in the ranking.
        recipe: how each start is tuned.
        decoding: as in `evaluate`.
        work: folder of finished units, from which a killed comparison continues; `None` keeps none. It is the
            caller's to remove once the comparison is saved.
        store, engine: where scores are kept and computed; see `rank`.
        progress: told how far the work is, and what became of every unit.

    Raises:
        HubError, MergeError, SettingError, TaskError: see `rank`, `merge` and `Task.few_shot`.
        OutputError: `work` cannot be written, or holds a broken unit.
    """
    recipe = RECIPES[recipe] if isinstance(recipe, str) else recipe
    blend = blend or Blend()
    blend = blend.model_copy(update={"indicator": str(make_indicator(blend.indicator).spec)})
    wanted = tuple(dict.fromkeys((blend.indicator, *indicators)))
    _check_request(task, blend, wanted, seeds=seeds)
    check_decoding(decoding, backbone)
    require_defined((blend.indicator,), task, backbone)
    began = time.monotonic()
    if not task.test:
        raise TaskError(f"task '{task.name}' has an empty test split; add rows to it")
    draws = [task.few_shot(k=shots, seed=seed) for seed in range(seeds)]
    modules, refused = load_modules(hub, backbone, progress=progress)
    refused += [
        Refused(module.name, f"{module.only_ranked}, which can be ranked but not merged or tuned")
        for module in modules
        if module.only_ranked
    ]
    modules = [module for module in modules if not module.only_ranked]
    if not modules:
        raise HubError(
            f"only variants that can be ranked but not tuned are left ({refused[-1].name} …); add plain modules"
        )
    require_fit(
        blend.change(rule="uniform", temperature=None, effective=None, top_k=None, group=()), modules, task.card
    )
    require_fit(blend, modules, task.card)
    run = _Run(backbone, modules, blend, recipe, decoding, _Units(work, backbone), progress, seeds, store, engine)
    for seed, draw in enumerate(draws):
        run.seed(draw, seed, wanted)
    settings = run.settings(task, shots=shots, seconds=time.monotonic() - began)
    return run.result(task, settings, refused)


def _check_request(task: Task, blend: Blend, indicators: Sequence[str], *, seeds: int) -> None:
    """Raise `SettingError` for what would otherwise be found wrong after minutes of work."""
    if seeds < 1:
        raise SettingError(f"seeds {seeds} must be at least 1")
    for name in indicators:
        make_indicator(name)
    check_blend(blend, task.card)


class _Units:
    """Results by content hash, kept as small JSON files: a unit that is there is not computed again."""

    def __init__(self, folder: Path | None, backbone: Backbone) -> None:
        self.folder = folder
        self._common = [backbone.fingerprint.weights, str(backbone.dtype), version("headstart")]
        self._known: dict[str, dict[str, Any]] = {}

    def key(self, *parts: str) -> str:
        """The hash that names a unit."""
        return hashlib.sha256(json.dumps([*self._common, *parts]).encode()).hexdigest()[:24]

    def get(self, key: str, compute: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """The unit's result, computed at most once."""
        path = self.folder / f"{key}.json" if self.folder else None
        if key not in self._known and path is not None and path.exists():
            self._known[key] = _read_unit(path)
        if key not in self._known:
            self._known[key] = compute()
            if path is not None:
                write_text(path, json.dumps(self._known[key]))
        return self._known[key]

    def checkpoint(self, key: str) -> Path | None:
        """Where a tuning unit keeps its state until it is done."""
        return self.folder / f"{key}.checkpoint" if self.folder else None


class _Run:
    """One comparison as it grows, seed by seed."""

    def __init__(
        self, backbone: Backbone, modules: Sequence[AnyModule], blend: Blend, recipe: Recipe, decoding: str,
        units: _Units, progress: Listener | None, seeds: int, store: AnyStore, engine: str,
    ) -> None:  # fmt: skip
        self.backbone, self.modules, self.blend, self.recipe = backbone, modules, blend, recipe
        self.decoding, self.units, self.progress, self.seeds = decoding, units, progress, seeds
        self.store, self.engine = store, engine
        self.rankings: list[pd.DataFrame] = []
        self.scores: list[dict[str, Any]] = []
        self.curves: list[dict[str, Any]] = []
        self.notes: list[str] = []
        self.digests = [module.digest() for module in modules]

    def seed(self, task: Task, seed: int, indicators: Sequence[str]) -> None:
        """Rank, blend, test, tune and test again on one draw."""
        start = self._ensemble(task, self._rank(task, seed, indicators), seed)
        self.rankings.append(weight_table(start).assign(seed=seed))
        self.notes.append(f"seed {seed}: {blend_note(start)}")
        for method, module in self._starts(start, seed).items():
            self._one(task, method, module, seed)

    def _rank(self, task: Task, seed: int, indicators: Sequence[str]) -> Ranking:
        prints = [task.fingerprint(split) for split in ("train", "dev")]
        reduction = self.blend.reduction
        key = self.units.key("rank", *self.digests, *indicators, reduction, self.recipe.to_json(), str(seed), *prints)

        def compute() -> dict[str, Any]:
            scores = rank(
                task, self.modules, self.backbone, indicators=indicators, reduction=reduction, recipe=self.recipe,
                seed=seed, store=self.store, engine=self.engine, progress=self.progress,
            ).scores  # fmt: skip
            values = {name: [_json_number(value) for value in found] for name, found in scores.values.items()}
            return {"values": values, "examples": scores.examples, "tokens": scores.tokens, "reasons": scores.reasons}

        unit = self.units.get(key, compute)
        values = {name: tuple(map(_number, found)) for name, found in unit["values"].items()}
        names = tuple(module.name for module in self.modules)
        scores = Scores(names, values, reduction, unit["examples"], unit["tokens"], unit["reasons"])
        return Ranking(tuple(self.modules), scores, (), None)

    def _ensemble(self, task: Task, ranking: Ranking, seed: int) -> Start:
        return blend_ranking(
            ranking, self.blend, task.card, backbone=self.backbone, name=f"{task.name}-start", seed=seed
        )

    def _starts(self, start: Start, seed: int) -> dict[str, Module]:
        """The four starts of a seed, in the order of `METHODS`."""
        modules, best = start.ranking.modules, start.ranking.scores.best(self.blend.indicator)
        average = merge(
            modules, uniform(len(modules)), space=self.blend.space, rank=self.blend.rank, density=self.blend.density,
            seed=seed, backbone=self.backbone,
        ).module  # fmt: skip
        single = merge(modules, one_hot(best, len(modules))).module
        scratch = modules[best].load().with_head(None).untuned(self.backbone, seed=seed)
        return dict(zip(METHODS, (scratch, average, single, start.module), strict=True))

    def _one(self, task: Task, method: str, module: Module, seed: int) -> None:
        """Both tests and the curve of one method of one seed."""
        done = len({(row["method"], row["seed"]) for row in self.scores})
        if self.progress:
            self.progress(Progress(f"seed {seed}, {method}", done, self.seeds * len(METHODS)))
        before = self._test(task, module)
        self._add(method, seed, "zero-shot", task, before, math.nan, before["seconds"])
        tuned = self._tune(task, module, seed, report=self._reporter(f"seed {seed}, {method}", done))
        self._add(method, seed, "tuned", task, tuned["test"], tuned["best_step"], tuned["seconds"])
        self.curves += [
            {"method": method, "seed": seed, "step": point["step"]}
            | {key: _number(point[key]) for key in ("dev_score", "dev_loss")}
            for point in tuned["curve"]
        ]

    def _reporter(self, what: str, done: int) -> Listener | None:
        show, total = self.progress, self.seeds * len(METHODS)

        def tell(event: Event) -> None:
            if show and isinstance(event, Progress):
                show(Progress(f"{what}: step {event.done} of {event.total}", done, total))

        return tell

    def _test(self, task: Task, module: Module) -> dict[str, Any]:
        if self.backbone.is_encoder and module.head is None:
            return {"score": None, "decoding": "head", "seconds": 0.0, "reason": UNTUNED_HEAD}
        text_format = text_format_of(self.recipe)
        key = self.units.key("test", module.digest(), task.fingerprint("test"), self.decoding, repr(text_format))

        def compute() -> dict[str, Any]:
            began = time.monotonic()
            (found,) = evaluate(
                [module],
                task.test,
                self.backbone,
                metric=task.card.metric,
                decoding=self.decoding,
                text_format=text_format,
            )
            return {"score": _json_number(found.score), "decoding": found.decoding, "seconds": time.monotonic() - began}

        return self.units.get(key, compute)

    def _tune(self, task: Task, start: Module, seed: int, *, report: Listener | None) -> dict[str, Any]:
        prints = [task.fingerprint(split) for split in ("train", "dev", "test")]
        key = self.units.key("tune", start.digest(), self.recipe.to_json(), str(seed), self.decoding, *prints)
        checkpoint = self.units.checkpoint(key)

        def compute() -> dict[str, Any]:
            tuned = tune(
                task, self.backbone, start=start, recipe=self.recipe, seed=seed, checkpoint=checkpoint, progress=report
            )
            test = self._test(task, tuned.module)
            curve = [{k: _json_number(v) for k, v in asdict(point).items()} for point in tuned.curve]
            return {"curve": curve, "best_step": tuned.best.step, "seconds": tuned.seconds, "test": test}

        result = self.units.get(key, compute)
        if checkpoint is not None:
            checkpoint.unlink(missing_ok=True)
        return result

    def _add(
        self, method: str, seed: int, stage: str, task: Task, found: dict[str, Any], steps: float, seconds: float
    ) -> None:
        score = _number(found["score"])
        undefined = found.get("reason", f"{task.card.metric} is undefined for these predictions")
        reason = undefined if math.isnan(score) else ""
        self.scores.append(
            {
                "method": method, "seed": seed, "stage": stage, "split": "test", "metric": task.card.metric,
                "score": score, "reason": reason,
                "steps_to_best": steps, "seconds": seconds, "decoding": found["decoding"],
            }
        )  # fmt: skip

    def settings(self, task: Task, *, shots: int | None, seconds: float) -> dict[str, Any]:
        """Everything that a repetition needs."""
        return {
            "backbone": self.backbone.name, "fingerprint": self.backbone.fingerprint.weights,
            "modules": len(self.modules), **self.blend.model_dump(mode="json"),
            "shots": USUAL_SHOTS if shots is None else shots, "seeds": self.seeds,
            "recipe": self.recipe.model_dump(), "test_rows": len(task.test),
            "decoding": self.scores[0]["decoding"], "device": str(self.backbone.device),
            "dtype": str(self.backbone.dtype).removeprefix("torch."), "headstart": version("headstart"),
            "seconds": round(seconds, 1),
        }  # fmt: skip

    def result(self, task: Task, settings: dict[str, Any], refused: Sequence[Refused]) -> Comparison:
        """The finished record."""
        seen = [module.name for module in self.modules if module.card.task == task.name]
        notes = [*self.notes, TEST_NOTE.format(rows=len(task.test))]
        if seen:
            notes.append(f"Tuned on a task of this very name, so not unseen: {', '.join(seen)}.")
        return Comparison(
            task.card,
            settings,
            pd.concat(self.rankings, ignore_index=True),
            pd.DataFrame([{"module": r.name, "reason": r.reason} for r in refused], columns=["module", "reason"]),
            pd.DataFrame(self.scores).drop(columns="decoding"),
            pd.DataFrame(self.curves),
            tuple(notes),
        )


def _read_unit(path: Path) -> dict[str, Any]:
    try:
        unit = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise OutputError(
            f"cannot read the finished unit {path} ({error}); remove it to have it computed again"
        ) from error
    if not isinstance(unit, dict):
        raise OutputError(f"{path} is no finished unit; remove it to have it computed again")
    return unit


def _json_number(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _number(value: float | None) -> float:
    return math.nan if value is None else value
