"""What a rule may know about the modules that it weighs. Pure Python: no rule reads tensors."""

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar, Protocol

from headstart.blending.blend import Blend
from headstart.blending.weights import Weights
from headstart.errors import SettingError
from headstart.records import Record

__all__ = ["NEEDS", "OPTIONS", "Candidate", "HeldOut", "Learning", "Request", "Rule", "Weighed"]

NEEDS = frozenset({"scores", "loss"})
"""What a rule may need: an indicator's scores, and rows of the task that are held out."""

OPTIONS = ("temperature", "effective", "top_k", "members", "weights", "signed", "l1", "groups", "split")
"""The fields of a `Blend` that only some rules use."""


class Learning(Record):
    """How weights are learned: whether they may have signs, the weight of their L1 norm, how many groups of layers."""

    signed: bool = False
    l1: float = 0.05
    groups: int = 1


class HeldOut(Protocol):
    """Rows of the new task that are kept aside for weights, with the backbone behind them."""

    def losses(self, tried: Sequence[Weights]) -> list[float]:
        """The mean loss of the module blended with each of these weights; lower is better. Each is computed once."""

    def learned(self, learning: Learning, positions: Sequence[int]) -> Weights:
        """Weights learned by gradient over the modules at `positions`; the others have none."""


class NotHeldOut:
    """What a request has where no rows are held out: asking it is a mistake of the rule."""

    def losses(self, tried: Sequence[Weights]) -> list[float]:
        """Not there."""
        del tried
        raise SettingError(
            "no rows are held out for this rule; give the request held_out=, or add 'loss' to what the rule needs"
        )

    def learned(self, learning: Learning, positions: Sequence[int]) -> Weights:
        """Not there."""
        del learning, positions
        return self.losses([])  # type: ignore[return-value]


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
    """What a rule is given: the blend, the modules, the family of the new task, the held-out rows if the rule needs
    them, and a seed."""

    blend: Blend
    candidates: Sequence[Candidate]
    family: str = ""
    held_out: HeldOut = field(default_factory=NotHeldOut)
    seed: int = 0


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
            by_scale = option == "split" and blend.scale == "held_out"
            if value not in (None, ()) and option not in self.reads and not by_scale:
                shown = ", ".join(map(str, value)) if isinstance(value, tuple) else value
                raise SettingError(f"{option} {shown} is not for rule '{self.name}'; leave it out, or choose its rule")

    def most(self, blend: Blend) -> int | None:
        """How many modules may get a weight, `None` for all; unless it is 1, all modules must be mergeable."""
        del blend
        return None

    def signs(self, blend: Blend) -> bool:
        """Whether its weights may be negative and have any sum, so that only linear spaces take them."""
        del blend
        return False

    @abstractmethod
    def weigh(self, request: Request) -> Weighed:
        """One weight per candidate, non-negative, summing to 1, unless the weights say that they are signed; a rule may
        also give weights by group of layers.

        Raises `MergeError` if there is nothing to weigh or a named module is missing.
        """
