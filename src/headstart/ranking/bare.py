"""What indicators give the bare backbone: beside it, the value of a module says whether the module helps."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self

from headstart.backbones import Backbone
from headstart.errors import ModuleError, SettingError
from headstart.indicators import Indicator, Need
from headstart.kinds import LoraModule
from headstart.kinds.settings import LoraSettings
from headstart.ranking.scoring import Scoring
from headstart.tasks import Task
from headstart.units import Results, Unit

__all__ = ["Bare"]

OWN = frozenset({Need.PREDICTIONS, Need.OPTIONS, Need.HIDDEN_STATES})
"""What a backbone has by itself, without parameters of a module and without another module beside it."""


@dataclass(frozen=True)
class Bare:
    """The units that score a backbone with nothing attached; made by `plan`. None where it cannot answer."""

    scoring: Scoring | None = None

    @classmethod
    def plan(cls, task: Task, backbone: Backbone, *, indicators: Sequence[Indicator], **how: Any) -> Self:
        """The scores by those of the indicators that the bare backbone has a value of; `how` as in `Scoring.plan`.

        It is scored as a fresh LoRA module, which changes nothing. An encoder only answers through a task head, and a
        backbone of an unknown architecture has no such module.
        """
        chosen = [one for one in indicators if one.needs <= OWN]
        if not chosen or backbone.is_encoder:
            return cls()
        try:
            nothing = LoraModule.fresh(backbone, LoraSettings(rank=1), name="bare backbone", seed=0)
        except (ModuleError, SettingError):
            return cls()
        return cls(Scoring.plan(task, [nothing], backbone, indicators=chosen, **how))

    def units(self) -> list[Unit]:
        """Everything that is to be run."""
        return [] if self.scoring is None else self.scoring.all_units()

    def values(self, found: Results, *, reduction: str) -> dict[str, float]:
        """By indicator, the value; those without one are left out."""
        if self.scoring is None:
            return {}
        table = self.scoring.table(found).reduce(reduction)
        return {spec: own[0] for spec, own in table.values.items() if not math.isnan(own[0])}
