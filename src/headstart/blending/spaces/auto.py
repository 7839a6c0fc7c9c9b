"""The space that fits: the papers' own if possible, otherwise the nearest module of the largest rank."""

from collections.abc import Sequence

from headstart.blending.spaces.contract import Options, Space
from headstart.blending.spaces.parameters import Parameters
from headstart.blending.spaces.svd import Svd
from headstart.blending.weights import Weights
from headstart.errors import MergeError
from headstart.kinds import AnyModule, LoraModule, Module

__all__ = ["Auto"]


class Auto(Space):
    """Uses "parameters" if shapes are equal and no `rank` is given; otherwise, for LoRA, "svd"."""

    name = "auto"
    source = "ours"
    reads = frozenset({"rank"})

    def fitting(self, modules: Sequence[AnyModule], *, rank: int | None = None) -> Space:
        """The one of the two that can merge these modules."""
        if rank is None:
            try:
                return Parameters().fitting(modules)
            except MergeError:
                if not all(issubclass(module.family, LoraModule) for module in modules):
                    raise
        return Svd().fitting(modules, rank=rank)

    def merge(self, modules: Sequence[Module], weights: Weights, options: Options) -> Module:
        """The sum in the space that fits."""
        return self.fitting(modules, rank=options.rank).merge(modules, weights, options)
