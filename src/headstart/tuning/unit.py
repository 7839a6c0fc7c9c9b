"""Tuning and evaluation as units of work: what counts of them, and what is kept."""

import math
import shutil
from collections.abc import Hashable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, ClassVar, Self

from headstart.backbones import Backbone, BackboneInput, TextFormat
from headstart.backbones.source import RESOURCE
from headstart.events import Event, Listener, Progress
from headstart.kinds import Module, load_module, save_module
from headstart.tasks import Example, Task
from headstart.tuning.evaluation import Evaluation, evaluate
from headstart.tuning.recipes import Recipe
from headstart.tuning.tune import CurvePoint, Tuned, tune
from headstart.units import Content, Context, Result, Unit
from headstart.units.canonical import digest_of
from headstart.units.unit import Found

__all__ = ["EvaluateUnit", "TuneUnit"]


@dataclass(frozen=True, eq=False)
class TuneUnit(Unit):
    """One tuning: from a start, on the rows of train and dev. What the module is called and licensed does not count.

    `start`: a module, a unit that makes one, or `None` for a fresh one. `own_head`: whether the start's task head was
    tuned on this very task, and is kept. Made by `of`.
    """

    type: ClassVar[str] = "tune"
    uncounted: ClassVar[frozenset[str]] = frozenset({"recipe", "name", "license"})

    backbone: BackboneInput
    rows: Content[Task]
    start: Module | Unit | None
    settings: dict[str, Any]
    seed: int
    own_head: bool
    recipe: Recipe
    name: str
    license: str

    @classmethod
    def of(
        cls,
        task: Task,
        backbone: BackboneInput,
        *,
        start: Module | Unit | None,
        recipe: Recipe,
        seed: int,
        name: str | None = None,
        license: str = "",  # noqa: A002 - the field's own word, as on model cards
    ) -> "TuneUnit":
        """The unit that tunes on `task`; its other splits, and dev rows beyond `max_dev`, are left out."""
        dev = task.dev[: recipe.max_dev] if recipe.max_dev else task.dev
        read = replace(task, splits={"train": task.train, "dev": dev})
        rows = Content(read, digest_of([read.fingerprint("train"), read.fingerprint("dev")]))
        own = isinstance(start, Module) and start.head is not None and start.card.task == task.name
        settings = {name: value for name, value in recipe.canonical(fresh=start is None).items() if name != "max_dev"}
        return cls(backbone, rows, start, settings, seed, own, recipe, name or task.name, license)

    @property
    def label(self) -> str:
        """Which module on which task."""
        return f"tuning {self.name} on {self.rows.value.name}, seed {self.seed}"

    def compute(self, context: Context) -> Result:
        """Tune, with a checkpoint in the working folder, and save the module there."""
        backbone: Backbone = context.resource(RESOURCE)
        work = context.work(self)
        start = load_module(_module_of(self.start, context)) if isinstance(self.start, Unit) else self.start
        tuned = tune(
            self.rows.value, backbone, start=start, recipe=self.recipe, seed=self.seed, name=self.name,
            license=self.license, checkpoint=work / "checkpoint", progress=self._progress(context),
        )  # fmt: skip
        return _kept(tuned, work / "module", device=str(backbone.device))

    def _progress(self, context: Context) -> Listener | None:
        listener = context.listener

        def tell(event: Event) -> None:
            if listener is not None:
                listener(replace(event, what=self.label) if isinstance(event, Progress) else event)

        return tell

    def tuned(self, result: Result) -> Tuned:
        """What `tune` would have returned, with the names and licences of this request."""
        assert result.module is not None
        module, task = load_module(result.module), self.rows.value
        curve = tuple(CurvePoint(**row) for row in result.rows)
        best = next(point for point in curve if point.step == result.facts["best_step"])
        theirs = self.start.card if isinstance(self.start, Module) else module.card
        card = module.card.model_copy(
            update={
                "name": self.name, "task": task.name, "family": task.card.family,
                "license": self.license or (theirs.license if self.start is not None else ""),
                "notes": f"Tuned with recipe '{self.recipe.name}', seed {self.seed}; "
                f"best at step {best.step} of {curve[-1].step}.",
            }
        )  # fmt: skip
        assert result.seconds is not None
        return Tuned(replace(module, card=card), curve, best, result.seconds, tuple(result.facts["notes"]))


@dataclass(frozen=True, eq=False)
class EvaluateUnit(Unit):
    """The score of one module, or of the bare backbone (`None`), on rows that answers are known of."""

    type: ClassVar[str] = "evaluate"
    uncounted: ClassVar[frozenset[str]] = frozenset({"name"})
    together: ClassVar[int] = 8

    backbone: BackboneInput
    module: Module | Unit | None
    rows: Content[Sequence[Example]]
    metric: str
    decoding: str
    text_format: TextFormat
    name: str = ""

    @property
    def label(self) -> str:
        """What is evaluated."""
        return f"evaluating {self.name or 'a module'}"

    def batch_key(self) -> Hashable:
        """Modules are evaluated together on the same rows."""
        return (self.backbone, self.rows.digest(), self.metric, self.decoding, self.text_format)

    def compute(self, context: Context) -> Result:
        """Evaluate this module alone."""
        ((_, found),) = self.compute_many([self], context)
        if isinstance(found, Exception):
            raise found
        return found

    @classmethod
    def compute_many(cls, units: Sequence[Self], context: Context) -> Iterator[Found]:
        """Evaluate modules of equal shape in one stack."""
        backbone: Backbone = context.resource(RESOURCE)
        modules = [
            load_module(_module_of(unit.module, context)) if isinstance(unit.module, Unit) else unit.module
            for unit in units
        ]
        first = units[0]
        found = evaluate(
            modules, first.rows.value, backbone, metric=first.metric, decoding=first.decoding,
            text_format=first.text_format,
        )  # fmt: skip
        for unit, evaluation in zip(units, found, strict=True):
            facts = {name: value for name, value in asdict(evaluation).items() if name != "predictions"}
            rows = [{"prediction": prediction} for prediction in evaluation.predictions]
            yield unit, Result(facts, rows, device=str(backbone.device))

    @staticmethod
    def evaluation(result: Result) -> Evaluation:
        """What `evaluate` would have returned."""
        predictions = tuple(row["prediction"] for row in result.rows)
        return Evaluation(**result.facts, predictions=predictions)


def _module_of(unit: Unit, context: Context) -> Any:
    folder = context.result(unit).module
    assert folder is not None, f"{unit.label} makes no module"
    return folder


def _kept(tuned: Tuned, folder: Any, *, device: str) -> Result:
    """The result of a tuning; its module is saved in `folder`, where a killed run may have left one."""
    shutil.rmtree(folder, ignore_errors=True)
    save_module(tuned.module, folder)
    facts = {
        "best_step": tuned.best.step,
        "dev_score": tuned.best.dev_score,
        "dev_loss": tuned.best.dev_loss,
        "notes": list(tuned.notes),
    }
    return Result(
        facts, [asdict(point) for point in tuned.curve], module=folder, device=device,
        seconds=None if math.isnan(tuned.seconds) else tuned.seconds,
    )  # fmt: skip
