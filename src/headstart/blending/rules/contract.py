"""What a rule may know of the modules that it weighs. Pure Python: no rule sees a tensor."""

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from headstart.errors import SettingError

__all__ = ["Candidate", "Rule", "RuleOptions"]


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
class RuleOptions:
    """What rules can be told; each reads what concerns it.

    `temperature`: τ of "softmax". `top_k`: how many of the best modules "softmax" and "top_k" take. `group`: names of
    the modules that "manual" averages. `family`: that of the new task, which stands for the group where none is named.
    """

    temperature: float | None = None
    top_k: int | None = None
    group: tuple[str, ...] = ()
    family: str = ""


class Rule(ABC):
    """How much weight every module gets.

    Class attributes: `name` as the user types it; `source`, the paper and section; `needs_scores`, whether an indicator
    must have scored the modules; `reads`, the names of the options that it heeds.
    """

    name: ClassVar[str]
    source: ClassVar[str]
    needs_scores: ClassVar[bool]
    reads: ClassVar[frozenset[str]] = frozenset()

    def check(self, options: RuleOptions) -> None:
        """Raise `SettingError` for an option that this rule would ignore or cannot use: known before any score is."""
        for option in ("temperature", "top_k", "group"):
            value = getattr(options, option)
            if value not in (None, ()) and option not in self.reads:
                shown = ", ".join(value) if isinstance(value, tuple) else value
                raise SettingError(f"{option} {shown} is not for rule '{self.name}'; leave it out, or choose its rule")

    def takes_all(self, options: RuleOptions) -> bool:
        """Whether every module with a score gets a weight, so that all must go together: known before any score is."""
        del options
        return False

    @abstractmethod
    def weights(self, candidates: Sequence[Candidate], options: RuleOptions) -> tuple[float, ...]:
        """One weight per candidate, non-negative, summing to 1.

        Raises `MergeError` when there is nothing to weigh or a named module is not there.
        """
