"""What a method is: it turns a draw of the task and a hub's modules into the module that tuning begins from."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import ClassVar

from headstart.backbones import Backbone
from headstart.blending import Blend
from headstart.blending.rules.contract import OPTIONS
from headstart.blending.start import PlannedStart, Start, plan_start
from headstart.comparing.norms import typical_norms
from headstart.comparing.sizes import blank_of_all
from headstart.errors import SettingError
from headstart.kinds import AnyModule, LoraModule, Module
from headstart.ranking.rank import Ranking
from headstart.tasks import Task
from headstart.units import Results

__all__ = ["Begun", "Blended", "Draw", "Method", "Pool"]


@dataclass(frozen=True, eq=False)
class Pool:
    """What all seeds share: the modules that can be merged, their backbone, and the rank at which methods are compared.

    `rank` is `None` where every method keeps its own rank and layers, and for kinds without a rank. `whole`: the pool
    that it is a part of, whose shape and norms are those of fresh and random modules here, too.
    """

    modules: tuple[AnyModule, ...]
    backbone: Backbone
    rank: int | None
    whole: "Pool | None" = None

    def narrowed(self, modules: Sequence[AnyModule]) -> "Pool":
        """The pool of some of its modules."""
        return replace(self, modules=tuple(modules), whole=self.whole or self)

    @cached_property
    def shapes(self) -> tuple[tuple[AnyModule, ...], ...]:
        """The modules by shape, the commonest first; only shapes that adapt a layer that no commoner one does.

        The commonest alone if there is no `rank`, or if it is not LoRA.
        """
        if self.whole is not None:
            return self.whole.shapes
        by_key: dict[Hashable, list[AnyModule]] = {}
        for module in self.modules:
            by_key.setdefault((module.kind, module.stack_key), []).append(module)
        commonest, *others = sorted(by_key.values(), key=len, reverse=True)
        found, layers = [tuple(commonest)], set(commonest[0].card.targets)
        if self.rank is None or not issubclass(commonest[0].family, LoraModule):
            return tuple(found)
        for group in others:
            if issubclass(group[0].family, LoraModule) and not layers.issuperset(group[0].card.targets):
                found.append(tuple(group))
                layers.update(group[0].card.targets)
        return tuple(found)

    @cached_property
    def shape(self) -> Module:
        """A module without a head, at `rank` on all layers that LoRA modules adapt; only its shape matters.

        Without `rank`, or for another kind, it has the commonest shape.
        """
        if self.whole is not None:
            return self.whole.shape
        return blank_of_all([group[0].load() for group in self.shapes], self.rank).with_head(None)

    @cached_property
    def norms(self) -> Mapping[str, tuple[float, ...]]:
        """How large the modules are, layer by layer, in the commonest shape that has the layer; see `typical_norms`."""
        if self.whole is not None:
            return self.whole.norms
        found: dict[str, tuple[float, ...]] = {}
        for group in self.shapes:
            found = {**typical_norms(group, self.backbone), **found}
        return found


@dataclass(frozen=True, eq=False)
class Draw:
    """One seed: the drawn task; `ranking`, which returns the pool's modules with the scores that a blend needs; and
    `run`, which runs units in this process, for blends that are chosen on held-out rows (given by `begin_all`)."""

    task: Task
    seed: int
    pool: Pool
    ranking: Callable[[Blend], Ranking]
    run: Callable[..., Results] | None = None


@dataclass(frozen=True)
class Begun:
    """Where a method begins: the module, and how it was blended, if it was."""

    module: Module
    start: Start | None = None


class Method(ABC):
    """One way to begin.

    Class attributes: `name` as the user types it; `source`, the paper and section.
    """

    name: ClassVar[str]
    source: ClassVar[str]

    def blend(self, base: Blend, changes: Mapping[str, str]) -> Blend | None:
        """How this method blends, or `None` if it does not.

        `base` is the comparison's own blend, `changes` the fields that differ for this method. Raises `SettingError`
        for a field that the method would ignore.
        """
        del base
        if changes:
            raise SettingError(
                f"method '{self.name}' blends nothing, so {min(changes)} is not for it; leave that out, "
                "or choose another method"
            )
        return None

    @abstractmethod
    def begin(self, draw: Draw, blend: Blend | None) -> Begun | PlannedStart:
        """The module that tuning begins from, seeded by the draw, or the merge that makes it; without a task head.

        The merges of all draws are run together, and each only once.
        """


class Blended(Method):
    """A method that is a blend with its own rule; the base class of the blending methods."""

    rule: ClassVar[str]

    def blend(self, base: Blend, changes: Mapping[str, str]) -> Blend | None:
        """The comparison's space, indicator and reduction, with this method's rule and none of another rule's options.

        Only the rule "manual" keeps the comparison's members and their weights.
        """
        if "rule" in changes:
            raise SettingError(
                f"method '{self.name}' has the rule '{self.rule}'; leave rule out, or write the rule in its place"
            )
        members, weights = (base.members, base.weights) if self.rule == "manual" else ((), ())
        own = {option: type(base).model_fields[option].default for option in OPTIONS}
        own |= {"rule": self.rule, "scale": None, "members": members, "weights": weights}
        return base.change(**{**own, **changes})

    def begin(self, draw: Draw, blend: Blend | None) -> PlannedStart:
        """The blend of the draw's ranking."""
        assert blend is not None  # made by `blend` above
        return plan_start(
            draw.ranking(blend), blend, draw.task, backbone=draw.pool.backbone, name=f"{draw.task.name}-start",
            seed=draw.seed, run=draw.run,
        )  # fmt: skip
