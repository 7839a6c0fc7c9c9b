"""What a merge space is: how the weighted sum of modules is computed, and what it needs from them."""

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar

from torch import Tensor

from headstart.blending.weights import Weights
from headstart.errors import MergeError, SettingError
from headstart.kinds import AnyModule, LoraModule, Module

__all__ = ["NEEDS", "Options", "Space", "loras", "widest_rank"]

NEEDS = frozenset({"equal shapes", "lora", "origin"})
"""What a space may need: modules of the same names and shapes; plain LoRA; the origin that changes start from."""


@dataclass(frozen=True, eq=False)
class Options:
    """The options of spaces; each space reads those that concern it.

    `rank`: the rank that "svd" and the "core" spaces cut to, `None` for the modules' largest. `density`: the share of
    each module's numbers that "ties", "core_ties" and "dare" keep, above 0 and at most 1, `None` for a half. `seed`: of
    the draw of "dare". `origin`: the values at which a module changes nothing, by parameter (`Module.origin`); only for
    spaces that need it.
    """

    rank: int | None = None
    density: float | None = None
    seed: int = 0
    origin: Mapping[str, Tensor] = field(default_factory=dict)

    @property
    def kept(self) -> float:
        """The share of each module's numbers that is kept."""
        return 0.5 if self.density is None else self.density


class Space(ABC):
    """One way to compute Σ w_i O_i.

    Class attributes: `name` as the user types it; `source`, the paper and section; `needs`, a subset of `NEEDS`;
    `reads`, which of "rank", "density" and "seed" it heeds; `grows`, whether every module adds to the rank of the
    result, so that those of next to no weight are left out; `linear`, whether it is a plain weighted sum, so that
    weights may have signs. What cannot work is refused by `fitting`, before any pass.
    """

    name: ClassVar[str]
    source: ClassVar[str]
    needs: ClassVar[frozenset[str]] = frozenset()
    reads: ClassVar[frozenset[str]] = frozenset()
    grows: ClassVar[bool] = False
    linear: ClassVar[bool] = False

    def check(self, options: Options) -> None:
        """Raise `SettingError` for an option that is out of range. Options that are not read are refused elsewhere."""
        if options.rank is not None and options.rank < 1:
            raise SettingError(
                f"rank {options.rank} must be at least 1; leave it out to keep the largest rank among the modules"
            )
        if not 0 < options.kept <= 1:
            raise SettingError(f"density {options.density} must be above 0 and at most 1; correct it")

    def fitting(self, modules: Sequence[AnyModule], *, rank: int | None = None) -> "Space":
        """This space, or the one that "auto" chooses, for modules of one kind; a single module always fits, as itself.

        Raises `MergeError` if the modules cannot be merged here.
        """
        del rank
        if "lora" in self.needs:
            _require_lora(modules, space=self.name)
        if "equal shapes" in self.needs:
            _require_equal_shapes(modules)
        return self

    @abstractmethod
    def merge(self, modules: Sequence[Module], weights: Weights, options: Options) -> Module:
        """The sum over two or more modules, each of which has a weight above 0 somewhere.

        Raises `MergeError` for modules that turn out not to be mergeable (different designs of the same shape).
        """


def _require_lora(modules: Sequence[AnyModule], *, space: str) -> None:
    for module in modules:
        if not issubclass(module.family, LoraModule):
            raise MergeError(
                f"'{module.name}' is not a plain LoRA module, so space '{space}' does not apply; leave it out"
            )


def _require_equal_shapes(modules: Sequence[AnyModule]) -> None:
    """One module of each stack is checked, because the modules of a stack have equal shapes.

    The commonest shape comes first, so that the error names one of the others as the odd one.
    """
    counts = Counter(module.stack_key for module in modules)
    firsts = list({module.stack_key: module for module in reversed(modules)}.values())[::-1]
    firsts.sort(key=lambda module: -counts[module.stack_key])
    if len(firsts) > 1:
        first = firsts[0].load()
        for module in firsts[1:]:
            other = module.load()
            for own, its in ((first, other), (other, first)):
                if own.only_ranked:
                    own.aligned_to(its)  # raises with the true reason: the parameters would only differ in names
            other.require_shapes_of(first)


def loras(modules: Sequence[Module], *, space: str) -> list[LoraModule]:
    """The modules as LoRA; raises `MergeError` naming the first that is not plain LoRA."""
    _require_lora(modules, space=space)
    return [module for module in modules if isinstance(module, LoraModule)]


def widest_rank(modules: Sequence[LoraModule]) -> int:
    """The largest rank of any layer of the modules."""
    return max(factor.a.shape[0] for module in modules for factor in module.factors.values())
