"""What a rule may know of the modules that it weighs. Pure Python: no rule sees a tensor."""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar

from headstart.blending.blend import Blend
from headstart.blending.weights import Weights
from headstart.errors import SettingError

__all__ = ["NEEDS", "OPTIONS", "Candidate", "HeldOutLoss", "Request", "Rule", "Weighed"]

NEEDS = frozenset({"scores", "loss"})
"""What a rule may need: an indicator's scores, and the held-out loss of given weights."""

OPTIONS = ("temperature", "effective", "top_k", "group")
"""The fields of a `Blend` that are for some rules only."""

HeldOutLoss = Callable[[Weights], float]
"""The mean loss, on rows kept aside for it, of the module that these weights make; lower is better."""


@dataclass(frozen=True)
class Candidate:
    """One module as a rule sees it: its name, its task's family, and its score, NaN where there is none.

    `merges` is false for a module that can only stand alone (a LoRA variant that PEFT computes).
    """

    name: str
    family: str = ""
    score: float = math.nan
    merges: bool = True


@dataclass(frozen=True)
class Request:
    """What a rule is given: the blend that is asked for, the modules, the family of the new task and, where the rule
    needs it, the held-out loss of weights."""

    blend: Blend
    candidates: Sequence[Candidate]
    family: str = ""
    loss: HeldOutLoss | None = None


@dataclass(frozen=True)
class Weighed:
    """What a rule found: the weights, and the temperature where it used one."""

    weights: Weights
    temperature: float | None = None


class Rule(ABC):
    """How much weight every module gets.

    Class attributes: `name` as the user types it; `source`, the paper and section; `needs`, a subset of `NEEDS`;
    `reads`, which of `OPTIONS` it heeds.
    """

    name: ClassVar[str]
    source: ClassVar[str]
    needs: ClassVar[frozenset[str]] = frozenset()
    reads: ClassVar[frozenset[str]] = frozenset()

    def check(self, blend: Blend, *, family: str = "") -> None:
        """Raise `SettingError` for an option that this rule would ignore or cannot use: known before any score is.

        `family` is that of the new task.
        """
        del family
        for option in OPTIONS:
            value = getattr(blend, option)
            if value not in (None, ()) and option not in self.reads:
                shown = ", ".join(value) if isinstance(value, tuple) else value
                raise SettingError(f"{option} {shown} is not for rule '{self.name}'; leave it out, or choose its rule")

    def most(self, blend: Blend) -> int | None:
        """How many modules may get a weight, `None` for all: where it is not 1, all must go together."""
        del blend
        return None

    @abstractmethod
    def weigh(self, request: Request) -> Weighed:
        """One weight per candidate, non-negative, summing to 1; and others for groups of layers where the rule has any.

        Raises `MergeError` when there is nothing to weigh or a named module is not there.
        """
