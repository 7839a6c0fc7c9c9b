"""The last stage of a fit: the tuning that is saved, its test, and what explains the ranking."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

from headstart.backbones import BackboneInput
from headstart.blending import Blend
from headstart.comparing.starting import Beginning
from headstart.evaluating.choice import CalibrationChoice
from headstart.evaluating.unit import EvaluateUnit
from headstart.fitting.defaults import DEFAULTS
from headstart.fitting.explaining import Explained
from headstart.fitting.guard import Guard
from headstart.indicators import make_indicator
from headstart.kinds import AnyModule
from headstart.ranking.bare import Bare
from headstart.records import Refused
from headstart.tasks import Task
from headstart.tuning.recipes import Recipe
from headstart.tuning.tune import text_format_of
from headstart.tuning.unit import TuneUnit
from headstart.units import Content, Unit

__all__ = ["Asked", "Last"]


@dataclass(frozen=True, eq=False)
class Asked:
    """What is fitted, and how."""

    task: Task
    refused: tuple[Refused, ...]
    blend: Blend
    recipe: Recipe
    name: str
    license: str
    test_rows: int
    seed: int

    @property
    def split(self) -> str:
        """The split whose score is reported."""
        return "test" if self.task.splits.get("test") else "dev"

    @property
    def reported(self) -> Task:
        """The task with the rows whose score is reported cut to size."""
        return self.task.take(self.split, self.test_rows, seed=self.seed)


@dataclass(frozen=True, eq=False)
class Last:
    """The tuning that is saved, its test, and what explains the ranking."""

    tuning: TuneUnit
    test: EvaluateUnit
    choice: CalibrationChoice
    bare: Bare
    explained: Explained

    def needed(self) -> list[Unit]:
        """What there must be."""
        return [self.tuning, self.test, *self.choice.units]

    def units(self) -> list[Unit]:
        """Everything that is to be run."""
        return [*self.needed(), *self.bare.units(), *self.explained.units()]

    @classmethod
    def plan(
        cls, asked: Asked, guard: Guard, begun: Beginning, modules: Sequence[AnyModule], *, indicator: str | None
    ) -> Self:
        """The stage that tunes from `begun`, and explains the first of `modules`, which are sorted.

        `indicator`: by which they are sorted, and of which the bare backbone has a value beside them.
        """
        backbone, reported = guard.pool.backbone, asked.reported
        whole = backbone.encoder.whole
        own = asked.recipe if whole else asked.recipe.laid_out_as(begun.module.card.text_format)
        layout = text_format_of(own)
        identity = BackboneInput.of(backbone, layout)
        tuning = TuneUnit.of(
            asked.task, identity, start=begun.module, recipe=own, seed=asked.seed, name=asked.name,
            license=asked.license,
        )  # fmt: skip
        rows = Content(reported.rows(asked.split), reported.fingerprint(asked.split))
        test = EvaluateUnit(identity, tuning, rows, asked.task.card.metric, guard.decoding, layout, name=asked.name)
        choice = CalibrationChoice.plan(test, asked.task, backbone, method=guard.calibration)
        chosen = [] if indicator is None else [make_indicator(indicator)]
        bare = Bare.plan(asked.task, backbone, indicators=chosen, recipe=asked.recipe, seed=asked.seed)
        explained = Explained.plan(
            asked.task, modules, guard.pool, recipe=asked.recipe, seed=asked.seed, shown=DEFAULTS.shown,
            mapped=DEFAULTS.mapped,
        )  # fmt: skip
        return cls(tuning, test, choice, bare, explained)
