"""Rows of the new task that are kept aside for choosing weights: by their loss, or by learning on them."""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar, Protocol, Self

import torch

from headstart.backbones import Backbone, BackboneInput, TextFormat, plan_batches, target_loss
from headstart.backbones.source import RESOURCE
from headstart.blending.learning import LearnUnit
from headstart.blending.merging import MergePlan
from headstart.blending.rules import Learning
from headstart.blending.weights import Weights
from headstart.errors import SettingError, TaskError
from headstart.kinds import AnyModule, Module, stack_of, stacks
from headstart.tasks import Example, Task
from headstart.tasks.belonging import belonging
from headstart.tasks.content import rows_read
from headstart.tasks.example import seeded_order
from headstart.units import Content, Context, Result, Results, Unit
from headstart.units.unit import Found, alone

__all__ = ["SPLITS", "GivenLoss", "HeldOutRows", "LossUnit", "Planned", "require_held_out", "target_losses"]

SPLITS = ("train", "dev")
"""Where held-out rows may come from; scores are read on dev."""

MOST_ROWS = 128
"""Of a longer split, so many rows are drawn."""

TOGETHER = 8
"""How many merged modules share a pass."""


class Planned(Protocol):
    """Plans the merge with these weights, multiplied by `scale`."""

    def __call__(self, weights: Weights, *, scale: float = 1.0) -> MergePlan:
        """The plan."""


@dataclass(frozen=True, eq=False)
class LossUnit(Unit):
    """The mean loss per target token, in nats, of one merge on rows; the merged module is not kept."""

    type: ClassVar[str] = "weigh"
    together: ClassVar[int] = TOGETHER

    backbone: BackboneInput
    plan: MergePlan
    rows: Content[Sequence[Example]]
    text_format: TextFormat

    @property
    def label(self) -> str:
        """How many modules are weighed."""
        return f"held-out loss of weights over {len(self.plan.modules)} modules"

    def batch_key(self) -> tuple[object, ...]:
        """Merges on the same rows share passes."""
        return (self.backbone, self.rows.digest(), self.text_format)

    def compute(self, context: Context) -> Result:
        """The loss of this merge alone."""
        return alone(self, context)

    @classmethod
    def compute_many(cls, units: Sequence[Self], context: Context) -> Iterator[Found]:
        """The losses of several merges, those of equal shape in one pass."""
        backbone: Backbone = context.resource(RESOURCE)
        first = units[0]
        modules = [unit.plan.merged(unit.plan.summed(backbone), name="weighed").module for unit in units]
        losses = target_losses(modules, first.rows.value, backbone, text_format=first.text_format)
        for unit, loss in zip(units, losses, strict=True):
            yield unit, Result({"loss": loss}, device=str(backbone.device))


def target_losses(
    modules: Sequence[Module], rows: Sequence[Example], backbone: Backbone, *, text_format: TextFormat
) -> list[float]:
    """The mean cross-entropy per target token of each module, in nats; modules of equal shape share passes."""
    items = backbone.encode([(row.text, row.target) for row in rows], text_format)
    lengths = [len(item.prompt) + len(item.target) for item in items]
    found = [math.nan] * len(modules)
    for members in stacks(modules, most=1 if backbone.goes_alone else TOGETHER):
        size = len(members)
        plan = plan_batches(lengths, budget=backbone.token_budget // size, targets=[len(item.target) for item in items])
        total = torch.zeros(size, dtype=torch.float64)
        with torch.inference_mode(), stack_of([modules[index] for index in members], backbone).attach(backbone):
            for indices in plan:
                batch = backbone.batch(items, indices)
                losses = target_loss(backbone.target_logits(batch, modules=size), batch.gold.to(backbone.device))
                total += losses.sum(1).cpu().double()
        for index, loss in zip(members, (total / sum(len(item.target) for item in items)).tolist(), strict=True):
            found[index] = loss
    return found


@dataclass(frozen=True, eq=False)
class HeldOutRows:
    """Held-out rows with all that it takes to weigh modules on them; every loss is a unit, computed once ever.

    `planned` plans a merge of `modules` with given weights; `run` runs units. `summed`: whether the blend's space sums
    updates, or raw parameters; `scale`: what multiplies the blend while weights are learned.
    """

    rows: Content[Sequence[Example]]
    backbone: Backbone
    text_format: TextFormat
    modules: tuple[AnyModule, ...]
    planned: Planned
    run: Callable[..., Results]
    summed: bool
    seed: int
    scale: float = 1.0

    @classmethod
    def of(
        cls,
        task: Task,
        modules: Sequence[AnyModule],
        backbone: Backbone,
        *,
        split: str | None,
        planned: Planned,
        run: Callable[..., Results],
        summed: bool,
        seed: int,
        scale: float = 1.0,
    ) -> "HeldOutRows":
        """At most `MOST_ROWS` rows of the split, laid out as the modules' prompts were."""
        rows = require_held_out(task, backbone, split=split)
        if len(rows) > MOST_ROWS:
            kept = sorted(seeded_order(rows, purpose="held-out", seed=seed)[:MOST_ROWS])
            rows = tuple(rows[index] for index in kept)
        layouts = [module.card.text_format for module in modules if module.card.text_format is not None]
        return cls(
            rows_read(rows), backbone, layouts[0] if layouts else TextFormat(), tuple(modules), planned, run, summed,
            seed, scale,
        )  # fmt: skip

    def losses(self, tried: Sequence[Weights], *, scales: Sequence[float] | None = None) -> list[float]:
        """The loss of every one of `tried`, each with its scale if there are `scales`."""
        own = BackboneInput.of(self.backbone, self.text_format)
        plans = [
            self.planned(weights) if scales is None else self.planned(weights, scale=scales[index])
            for index, weights in enumerate(tried)
        ]
        units = [LossUnit(own, plan, self.rows, self.text_format) for plan in plans]
        found = self.run(units)
        return [float(found.of(unit).facts["loss"]) for unit in units]

    def learned(self, learning: Learning, positions: Sequence[int]) -> Weights:
        """Weights learned by gradient over the modules at `positions`; the others have none."""
        parts = belonging(self.rows.value)
        unit = LearnUnit(
            BackboneInput.of(self.backbone, self.text_format), tuple(self.modules[index] for index in positions),
            self.summed, self.rows, self.text_format, learning, self.scale, self.seed,
            parts=() if len(set(parts)) == len(parts) else tuple(parts),
        )  # fmt: skip
        return unit.weights(self.run([unit]).of(unit)).spread(positions, len(self.modules))


@dataclass(frozen=True, eq=False)
class GivenLoss:
    """The held-out loss that a caller computes himself: a function of the merged module."""

    loss: Callable[[Module], float]
    planned: Planned
    backbone: Backbone

    def losses(self, tried: Sequence[Weights], *, scales: Sequence[float] | None = None) -> list[float]:
        """The loss of every one of `tried`."""
        found = []
        for index, weights in enumerate(tried):
            plan = self.planned(weights) if scales is None else self.planned(weights, scale=scales[index])
            found.append(self.loss(plan.merged(plan.summed(self.backbone), name="weighed").module))
        return found

    def learned(self, learning: Learning, positions: Sequence[int]) -> Weights:
        """Not possible: nothing is known of the function but its values."""
        del learning, positions
        raise SettingError("rule 'gradient' learns on rows of the task; leave out held_out=, or use rule 'nevergrad'")


def require_held_out(task: Task, backbone: Backbone, *, split: str | None) -> tuple[Example, ...]:
    """The held-out rows. Raises `TaskError` if there are none, `SettingError` on an encoder or for another split."""
    if split not in (None, *SPLITS):
        raise SettingError(
            f"split '{split}' of a blend is none to hold rows out of; choose one of: {', '.join(SPLITS)}"
        )
    if backbone.is_encoder:
        raise SettingError(
            f"{backbone.name} is an encoder: before tuning, a start has no task head, so weights have no loss; use a "
            "rule and a scale that need no held-out rows (--rule softmax and --scale 1, or softmax:scale=1)"
        )
    rows = tuple(row for row in task.rows(split or "train") if row.outputs)
    if not rows:
        raise TaskError(f"split '{split or 'train'}' of task '{task.name}' has no rows to choose weights on; add some")
    return rows
