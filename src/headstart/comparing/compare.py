"""The guarded comparison: any list of ways to begin, before and after tuning, over several seeds."""

import math
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pandas as pd

from headstart.backbones import Backbone
from headstart.blending import Blend
from headstart.blending.ensemble import blend_note, checked_blend, require_fit, unscored, weight_table
from headstart.comparing.comparison import FRAMES, METHODS, Comparison
from headstart.comparing.finished import Finished
from headstart.comparing.methods.contract import Draw, Pool
from headstart.comparing.methods.parse import Compared, parse_methods
from headstart.comparing.starting import (
    Beginning,
    at_equal_rank,
    begin_all,
    common_rank,
    same_start_notes,
    starts_rows,
)
from headstart.errors import HubError, SettingError, TaskError
from headstart.events import Event, Listener, Progress
from headstart.hub import Hub
from headstart.indicators import make_indicator
from headstart.indicators.table import Scores
from headstart.kinds import AnyModule, Module
from headstart.ranking.rank import Ranking, best_first, load_modules, rank, require_defined
from headstart.records import Refused
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
    methods: Sequence[str] = METHODS,
    seeds: int = 3,
    shots: int | None = None,
    blend: Blend | str | None = None,
    equal_rank: bool = True,
    indicators: Sequence[str] = (),
    recipe: Recipe | str = "few-shot",
    decoding: str = "auto",
    work: Path | None = None,
    store: AnyStore = None,
    engine: str = "serial",
    progress: Listener | None = None,
) -> Comparison:
    """Tune from several starts on few-shot draws of a task and test each, before and after.

    Every seed is another draw of training and dev rows, another fresh module and another order; all methods of a seed
    share them. The test split is used for nothing but the reported scores. Methods that begin from the very same module
    are tuned once, and `Comparison.starts` says so.

    Args:
        task: with train and test splits (and a dev split, or enough training rows to draw one from).
        hub: a hub, or modules that were loaded before.
        backbone: the frozen model.
        methods: what is compared, each as "[LABEL=]NAME[:field=value,…]": a name in
            `headstart.comparing.methods.METHODS` or a merge rule, with fields of a `Blend` that differ from `blend`
            ("mine=softmax:indicator=loss,temperature=0.1").
        seeds: how many, from 0.
        shots: rows per class (four times as many without classes); `None` is [PEWE]'s 16 and 64.
        blend: how "ensemble" is made, and where the other blending methods have their indicator and space from.
        equal_rank: whether LoRA methods begin at one rank: the blend's, else the largest of the hub. A larger start is
            cut to it by "svd", a smaller one filled up without a change of its function. Without it each keeps its own.
        indicators: further indicators to show in the ranking.
        recipe: how each start is tuned.
        decoding: as in `evaluate`.
        work: folder of finished units, from which a killed comparison continues; `None` keeps none. It is the
            caller's to remove once the comparison is saved.
        store, engine: where scores are kept and computed; see `rank`.
        progress: told how far the work is, and what became of every unit.

    Raises:
        HubError, MergeError, SettingError, TaskError: see `rank`, `merge` and `Task.few_shot`. What cannot work is
            refused before any pass.
        OutputError: `work` cannot be written, or holds a broken unit.
    """
    began = time.monotonic()
    recipe = RECIPES[recipe] if isinstance(recipe, str) else recipe
    base = Blend.parse(blend) if isinstance(blend, str) else blend or Blend()
    shown = tuple(dict.fromkeys(str(make_indicator(text).spec) for text in indicators))
    compared = _checked(task, backbone, parse_methods(methods, base), seeds=seeds, decoding=decoding)
    draws = [task.few_shot(k=shots, seed=seed) for seed in range(seeds)]
    modules, refused = _pool_of(hub, backbone, progress=progress)
    for method in compared:
        if method.blend is not None:
            require_fit(method.blend, modules, task.card)
    rank_of_all = common_rank(modules, asked=base.rank) if equal_rank else None
    compared = tuple(at_equal_rank(method, rank_of_all) for method in compared)
    pool = Pool(tuple(modules), backbone, rank_of_all)
    asked = _Asked(task, compared, base, shown, recipe, decoding, seeds, store, engine)
    run = _Run(asked, pool, Finished(work, backbone), progress)
    for seed, draw in enumerate(draws):
        run.seed(draw, seed)
    return run.result(refused, shots=shots, seconds=time.monotonic() - began)


def _checked(
    task: Task, backbone: Backbone, methods: Sequence[Compared], *, seeds: int, decoding: str
) -> tuple[Compared, ...]:
    """The methods with their blends checked; raises now what would be found wrong after minutes of work."""
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


def _pool_of(
    hub: Hub | Sequence[AnyModule], backbone: Backbone, *, progress: Listener | None
) -> tuple[list[AnyModule], list[Refused]]:
    """The modules that can be merged and tuned, and those that cannot."""
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
    return modules, refused


@dataclass(frozen=True, eq=False)
class _Asked:
    """What is compared, and how."""

    task: Task
    methods: tuple[Compared, ...]
    base: Blend
    shown: tuple[str, ...]
    recipe: Recipe
    decoding: str
    seeds: int
    store: AnyStore
    engine: str

    @property
    def subject(self) -> Compared:
        """What the verdict is about: the ensemble, else the first blend by scores, else the last method."""
        blends = [method for method in self.methods if method.method.name == "ensemble"]
        scored = [method for method in self.methods if method.needs_scores]
        return [*blends, *scored, self.methods[-1]][0]

    def indicators(self, reduction: str) -> tuple[str, ...]:
        """What a pass with this reduction is asked for: the subject's indicator, the other methods', those shown."""
        ordered = [self.subject, *self.methods]
        needed = [method.blend for method in ordered if method.blend is not None and method.needs_scores]
        own = [blend.indicator for blend in needed if blend.reduction == reduction]
        return tuple(dict.fromkeys([*own, *(self.shown if reduction == self.base.reduction else ())]))


class _Run:
    """One comparison as it grows, seed by seed."""

    def __init__(self, asked: _Asked, pool: Pool, units: Finished, progress: Listener | None) -> None:
        self.asked, self.pool, self.units, self.progress = asked, pool, units, progress
        self.frames: dict[str, list[dict[str, Any]]] = {name: [] for name in ("missing", "starts", "scores", "curves")}
        self.rankings: list[pd.DataFrame] = []
        self.notes: list[str] = []
        self.decoding = ""
        self.digests = [module.digest() for module in pool.modules]

    def seed(self, task: Task, seed: int) -> None:
        """Rank, begin, test, tune and test again on one draw."""
        rankings: dict[str, Ranking] = {}

        def ranking(blend: Blend) -> Ranking:
            if blend.reduction not in rankings:
                rankings[blend.reduction] = self._rank(task, seed, blend.reduction)
            return rankings[blend.reduction]

        shown = ranking(self.asked.subject.blend or self.asked.base)
        beginnings = begin_all(Draw(task, seed, self.pool, ranking), self.asked.methods)
        self._record(shown, beginnings, seed)
        for begun in beginnings:
            self._one(task, begun)

    def _rank(self, task: Task, seed: int, reduction: str) -> Ranking:
        modules, indicators = self.pool.modules, self.asked.indicators(reduction)
        if not indicators:
            return unscored(modules, reduction)
        prints = [task.fingerprint(split) for split in ("train", "dev")]
        recipe = self.asked.recipe
        key = self.units.key("rank", *self.digests, *indicators, reduction, recipe.to_json(), str(seed), *prints)

        def compute() -> dict[str, Any]:
            scores = rank(
                task, modules, self.pool.backbone, indicators=indicators, reduction=reduction, recipe=recipe,
                seed=seed, store=self.asked.store, engine=self.asked.engine, progress=self.progress,
            ).scores  # fmt: skip
            values = {name: [_json_number(value) for value in found] for name, found in scores.values.items()}
            return {"values": values, "examples": scores.examples, "tokens": scores.tokens, "reasons": scores.reasons}

        unit = self.units.get(key, compute)
        values = {name: tuple(map(_number, found)) for name, found in unit["values"].items()}
        names = tuple(module.name for module in modules)
        scores = Scores(names, values, reduction, unit["examples"], unit["tokens"], unit["reasons"])
        return Ranking(modules, scores, (), None)

    def _record(self, ranking: Ranking, beginnings: Sequence[Beginning], seed: int) -> None:
        """The ranking with the subject's weights, what has no value, and where every method begins."""
        (subject,) = (begun for begun in beginnings if begun.label == self.asked.subject.label)
        if subject.start is not None:
            frame = weight_table(subject.start)
            self.notes.append(f"seed {seed}: {blend_note(subject.start)}")
        else:
            frame = ranking.frame().assign(weight=math.nan)
            frame = best_first(frame, frame.columns[4]) if len(frame.columns) > 5 else frame
        self.rankings.append(frame.assign(seed=seed))
        self.frames["missing"] += [
            {"seed": seed, "indicator": indicator, "module": module, "reason": reason}
            for indicator, reasons in ranking.scores.reasons.items()
            for module, reason in reasons.items()
        ]
        self.frames["starts"] += starts_rows(beginnings)

    def _one(self, task: Task, begun: Beginning) -> None:
        """Both tests and the curve of one method of one seed."""
        what, total = f"seed {begun.seed}, {begun.label}", self.asked.seeds * len(self.asked.methods)
        done = len({(row["method"], row["seed"]) for row in self.frames["scores"]})
        listener = self.progress or (lambda _: None)
        listener(Progress(what, done, total))
        before = self._test(task, begun.module)
        self._add(begun, "zero-shot", before, math.nan, before["seconds"])

        def tell(event: Event) -> None:
            if isinstance(event, Progress):
                event = Progress(what, done, total, f"step {event.done} of {event.total}")
            listener(event)

        tuned = self._tune(task, begun.module, begun.seed, report=tell)
        self._add(begun, "tuned", tuned["test"], tuned["best_step"], tuned["seconds"])
        self.frames["curves"] += [
            {"method": begun.label, "seed": begun.seed, "step": point["step"]}
            | {key: _number(point[key]) for key in ("dev_score", "dev_loss")}
            for point in tuned["curve"]
        ]

    def _test(self, task: Task, module: Module) -> dict[str, Any]:
        backbone, decoding = self.pool.backbone, self.asked.decoding
        if backbone.is_encoder and module.head is None:
            return {"score": None, "decoding": "head", "seconds": 0.0, "reason": UNTUNED_HEAD}
        text_format = text_format_of(self.asked.recipe)
        key = self.units.key("test", module.digest(), task.fingerprint("test"), decoding, repr(text_format))

        def compute() -> dict[str, Any]:
            began = time.monotonic()
            (found,) = evaluate(
                [module], task.test, backbone, metric=task.card.metric, decoding=decoding, text_format=text_format
            )
            return {"score": _json_number(found.score), "decoding": found.decoding, "seconds": time.monotonic() - began}

        return self.units.get(key, compute)

    def _tune(self, task: Task, start: Module, seed: int, *, report: Listener) -> dict[str, Any]:
        recipe = self.asked.recipe
        prints = [task.fingerprint(split) for split in ("train", "dev", "test")]
        key = self.units.key("tune", start.digest(), recipe.to_json(), str(seed), self.asked.decoding, *prints)
        checkpoint = self.units.checkpoint(key)

        def compute() -> dict[str, Any]:
            tuned = tune(
                task, self.pool.backbone, start=start, recipe=recipe, seed=seed, checkpoint=checkpoint, progress=report
            )
            test = self._test(task, tuned.module)
            curve = [{k: _json_number(v) for k, v in asdict(point).items()} for point in tuned.curve]
            return {"curve": curve, "best_step": tuned.best.step, "seconds": tuned.seconds, "test": test}

        result = self.units.get(key, compute)
        if checkpoint is not None:
            checkpoint.unlink(missing_ok=True)
        return result

    def _add(self, begun: Beginning, stage: str, found: dict[str, Any], steps: float, seconds: float) -> None:
        metric, score = self.asked.task.card.metric, _number(found["score"])
        undefined = found.get("reason", f"{metric} is undefined for these predictions")
        self.decoding = self.decoding or found["decoding"]
        self.frames["scores"].append(
            {
                "method": begun.label, "seed": begun.seed, "stage": stage, "split": "test", "metric": metric,
                "score": score, "reason": undefined if math.isnan(score) else "",
                "steps_to_best": steps, "seconds": seconds,
            }
        )  # fmt: skip

    def settings(self, *, shots: int | None, seconds: float) -> dict[str, Any]:
        """Everything that a repetition needs."""
        asked, backbone = self.asked, self.pool.backbone
        blends = {method.label: method.blend for method in asked.methods}
        return {
            "backbone": backbone.name, "fingerprint": backbone.fingerprint.weights,
            "modules": len(self.pool.modules), **(asked.subject.blend or asked.base).model_dump(mode="json"),
            "methods": list(blends), "subject": asked.subject.label, "compared_rank": self.pool.rank,
            "blends": {label: blend.model_dump(mode="json", exclude_defaults=True) | {"rule": blend.rule}
                       for label, blend in blends.items() if blend is not None},
            "shots": USUAL_SHOTS if shots is None else shots, "seeds": asked.seeds,
            "recipe": asked.recipe.model_dump(), "test_rows": len(asked.task.test),
            "decoding": self.decoding, "device": str(backbone.device),
            "dtype": str(backbone.dtype).removeprefix("torch."), "headstart": version("headstart"),
            "seconds": round(seconds, 1),
        }  # fmt: skip

    def result(self, refused: Sequence[Refused], *, shots: int | None, seconds: float) -> Comparison:
        """The finished record."""
        task = self.asked.task
        seen = [module.name for module in self.pool.modules if module.card.task == task.name]
        notes = [*self.notes, *same_start_notes(self.frames["starts"]), TEST_NOTE.format(rows=len(task.test))]
        if seen:
            notes.append(f"Tuned on a task of this very name, so not unseen: {', '.join(seen)}.")
        rows = {**self.frames, "refused": [{"module": each.name, "reason": each.reason} for each in refused]}
        return Comparison(
            task.card,
            self.settings(shots=shots, seconds=seconds),
            ranking=pd.concat(self.rankings, ignore_index=True),
            notes=tuple(notes),
            **{name: pd.DataFrame(found, columns=list(FRAMES[name])) for name, found in rows.items()},
        )


def _json_number(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _number(value: float | None) -> float:
    return math.nan if value is None else value
