"""Tuning as a unit of work: which inputs count, and which results are kept."""

import math
from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, Self, TypeGuard

from headstart.backbones import Backbone, BackboneInput
from headstart.backbones.load import load_of, tokens_of
from headstart.backbones.source import RESOURCE
from headstart.errors import LanesError, ModuleError
from headstart.kinds import AnyModule, load_module
from headstart.kinds.unit import given_module, kept_module
from headstart.tasks import METRICS, Task
from headstart.tuning.lane import CurvePoint, Lane, Tuned
from headstart.tuning.lanes import tune_lanes
from headstart.tuning.optimizers import OPTIMIZERS
from headstart.tuning.recipes import Recipe
from headstart.tuning.run import dataset_license, donors_of, task_facts, text_format_of
from headstart.units import Content, Context, Load, Result, Unit
from headstart.units.canonical import digest_of
from headstart.units.unit import Found, alone

__all__ = ["TuneUnit"]


@dataclass(frozen=True, eq=False)
class TuneUnit(Unit):
    """One tuning: from a start, on the rows of train and dev. The module's name and licence do not count.

    `start`: a module, a unit that makes one, or `None` for a fresh one. `own_head`: whether the start's task head was
    tuned on this very task, and is kept. `checkpoint`: a file to continue from, in place of the one in the working
    folder. `part`: of what larger work it is a part, for people: "fold 2"; "" is its seed. Made by `of`.
    """

    type: ClassVar[str] = "tune"
    uncounted: ClassVar[frozenset[str]] = frozenset({"recipe", "name", "license", "tracker", "checkpoint", "part"})
    together: ClassVar[int] = 64

    backbone: BackboneInput
    rows: Content[Task]
    start: AnyModule | Unit | None
    settings: dict[str, Any]
    seed: int
    own_head: bool
    recipe: Recipe
    name: str
    license: str
    tracker: str | None = None
    checkpoint: Path | None = None
    part: str = ""

    @classmethod
    def of(
        cls,
        task: Task,
        backbone: BackboneInput,
        *,
        start: AnyModule | Unit | None,
        recipe: Recipe,
        seed: int,
        name: str | None = None,
        license: str = "",  # noqa: A002 - the field's own word, as on model cards
        tracker: str | None = None,
        checkpoint: Path | None = None,
        part: str = "",
    ) -> "TuneUnit":
        """The unit that tunes on `task`; its other splits, and dev rows beyond `max_dev`, are left out."""
        dev = task.dev[: recipe.max_dev] if recipe.max_dev else task.dev
        read = replace(task, splits={"train": task.train, "dev": dev})
        rows = Content(read, digest_of([read.fingerprint("train"), read.fingerprint("dev")]))
        own = _has_card(start) and start.card.head is not None and start.card.task == task.name
        settings = {name: value for name, value in recipe.canonical(fresh=start is None).items() if name != "max_dev"}
        return cls(
            backbone, rows, start, settings, seed, own, recipe, name or task.name, license, tracker, checkpoint, part
        )

    @property
    def label(self) -> str:
        """Which module is tuned on which task."""
        return f"tuning {self._title}"

    @property
    def _title(self) -> str:
        return f"{self.name} on {self.rows.value.name}, {self.part or f'seed {self.seed}'}"

    @property
    def versions(self) -> dict[str, int]:
        """Those of the optimizer, and of the metric by which the state is chosen."""
        optimizer, metric = self.recipe.optimizer, self.rows.value.card.metric
        chosen = {f"optimizer {optimizer}": OPTIMIZERS[optimizer].version}
        return chosen | {f"metric {metric}": METRICS[metric].version}

    def load(self, context: Context) -> Load:
        """All steps, of which each reads a batch and goes back through it, and all evaluations of the dev rows."""
        recipe = self.recipe
        evaluations = 1 + recipe.max_steps // recipe.eval_every
        return self._load(context.resource(RESOURCE), steps=recipe.max_steps, evaluations=evaluations)

    def taken(self, result: Result, context: Context) -> Load:
        """What it took, by the steps and evaluations that its curve holds."""
        return self._load(context.resource(RESOURCE), steps=result.rows[-1]["step"], evaluations=len(result.rows))

    def _load(self, backbone: Backbone, *, steps: int, evaluations: int) -> Load:
        task, read = self.rows.value, text_format_of(self.recipe)
        rows = min(self.recipe.batch_size, len(task.train))
        back = steps * rows * tokens_of(task.train, backbone, read) // max(len(task.train), 1)
        return load_of(backbone, forward=evaluations * tokens_of(task.dev, backbone, read), both=back)

    @classmethod
    def size_of(cls, inputs: Mapping[str, Any]) -> float:
        """Rows read in all steps."""
        settings, usual = inputs["settings"]["map"], Recipe.model_fields
        steps, rows = (settings.get(name, usual[name].default) for name in ("max_steps", "batch_size"))
        return float(steps * rows)

    def batch_key(self) -> Hashable:
        """All tunings on one backbone can be lanes of one run."""
        return self.backbone

    def compute(self, context: Context) -> Result:
        """Tune this module alone."""
        return alone(self, context)

    @classmethod
    def compute_many(cls, units: Sequence[Self], context: Context) -> Iterator[Found]:
        """Tune as lanes, each with a checkpoint in its working folder, where its module is saved too."""
        backbone: Backbone = context.resource(RESOURCE)
        lanes: list[Lane] = []
        ready: list[Self] = []
        for unit in units:
            try:
                lanes.append(unit.lane(context))
                ready.append(unit)
            except ModuleError as unreadable:  # the others can go on
                yield unit, unreadable
        try:
            for index, tuned in tune_lanes(lanes, backbone, progress=context.listener) if lanes else ():
                folder = kept_module(tuned.module, ready[index], context)
                yield ready[index], _kept(tuned, folder, device=str(backbone.device))
        except LanesError as failed:
            for index, error in failed.failures.items():
                yield ready[index], error

    def lane(self, context: Context) -> Lane:
        """The tuning as a lane, with its start at hand."""
        return Lane(
            self.rows.value, given_module(self.start, context), recipe=self.recipe, seed=self.seed, name=self.name,
            license=self.license, checkpoint=self.checkpoint or context.work(self) / "checkpoint", label=self._title,
            anew=self.checkpoint is None, tracker=self.tracker,
        )  # fmt: skip

    def tuned(self, result: Result) -> Tuned:
        """What `tune` would have returned, with the name and licence of this request."""
        assert result.module is not None
        module, task = load_module(result.module), self.rows.value
        curve = tuple(CurvePoint(**row) for row in result.rows)
        best = next(point for point in curve if point.step == result.facts["best_step"])
        own: dict[str, Any] = {"license": self.license} if self.license else {}
        if self.start is None or _has_card(self.start):  # what it and the task say may have changed since
            own["dataset_license"] = dataset_license(task.card, None if self.start is None else self.start.card)
        if _has_card(self.start):
            own |= {"license": self.license or self.start.card.license, "donors": donors_of(self.start.card)}
        card = module.card.model_copy(
            update={
                **own, **task_facts(task.card), "name": self.name, "tensor_hash": "",
                "notes": f"Tuned with recipe '{self.recipe.name}', seed {self.seed}; "
                f"best at step {best.step} of {curve[-1].step}.",
            }
        )  # fmt: skip
        assert result.seconds is not None
        return Tuned(replace(module, card=card), curve, best, result.seconds, tuple(result.facts["notes"]))


def _has_card(start: AnyModule | Unit | None) -> TypeGuard[AnyModule]:
    """Whether it is a module, read or not yet; one that a unit makes says what it is once that was computed."""
    return start is not None and not isinstance(start, Unit)


def _kept(tuned: Tuned, folder: Path, *, device: str) -> Result:
    """The result of a tuning whose module was saved in `folder`."""
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
