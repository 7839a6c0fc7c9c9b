"""What a rule may know about the modules that it weighs. Pure Python: no rule reads tensors."""

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

OPTIONS = ("temperature", "effective", "top_k", "members", "weights")
"""The fields of a `Blend` that only some rules use."""

HeldOutLoss = Callable[[Weights], float]
"""The mean loss of the module blended with these weights, on rows kept aside for this; lower is better."""


@dataclass(frozen=True)
class Candidate:
    """One module as a rule sees it: its name, its task's family, and its score (NaN if there is none).

    `merges` is false for a module that can only stand alone (a LoRA variant that PEFT computes).
    """

    name: str
    family: str = ""
    score: float = math.nan
    merges: bool = True


@dataclass(frozen=True)
class Request:
    """What a rule is given: the blend, the modules, the family of the new task and, if the rule needs it, the
    held-out loss of weights."""

    blend: Blend
    candidates: Sequence[Candidate]
    family: str = ""
    loss: HeldOutLoss | None = None


@dataclass(frozen=True)
class Weighed:
    """What a rule returns: the weights, and the temperature if it used one."""

    weights: Weights
    temperature: float | None = None


class Rule(ABC):
    """A rule says how much weight every module gets.

    Class attributes: `name` as the user types it; `source`, the paper and section; `needs`, a subset of `NEEDS`;
    `reads`, the `OPTIONS` that it uses.
    """

    name: ClassVar[str]
    source: ClassVar[str]
    needs: ClassVar[frozenset[str]] = frozenset()
    reads: ClassVar[frozenset[str]] = frozenset()

    def check(self, blend: Blend, *, family: str = "") -> None:
        """Raise `SettingError` for an option that this rule would ignore or cannot use, before anything is scored.

        `family` is that of the new task.
        """
        del family
        for option in OPTIONS:
            value = getattr(blend, option)
            if value not in (None, ()) and option not in self.reads:
                shown = ", ".join(map(str, value)) if isinstance(value, tuple) else value
                raise SettingError(f"{option} {shown} is not for rule '{self.name}'; leave it out, or choose its rule")

    def most(self, blend: Blend) -> int | None:
        """How many modules may get a weight, `None` for all; unless it is 1, all modules must be mergeable."""
        del blend
        return None

    @abstractmethod
    def weigh(self, request: Request) -> Weighed:
        """One weight per candidate, non-negative, summing to 1; a rule may also give weights by group of layers.

        Raises `MergeError` if there is nothing to weigh or a named module is missing.
        """
