"""Core Space: the sum, made in bases that the modules share; the other rules of Core Space are made of this one."""

from collections.abc import Sequence

from torch import Tensor

from headstart.blending.low_rank import balanced
from headstart.blending.spaces.bases import Cores, Triplets, leading
from headstart.blending.spaces.contract import Options, Space, loras, widest_rank
from headstart.blending.weights import Weights
from headstart.kinds import LoraModule, Module
from headstart.kinds.lora import Factors

__all__ = ["Core"]


class Core(Space):
    """Σ w_i M_i over the cores M_i (p, q) of every layer, cut to `rank` singular values, else to the largest rank.

    Without a cut nothing is lost, so the result is that of space "svd"; subclasses combine the cores otherwise.
    """

    name = "core"
    source = "Panariello et al., 2025, §3"
    needs = frozenset({"lora"})
    reads = frozenset({"rank"})
    linear = True

    def merge(self, modules: Sequence[Module], weights: Weights, options: Options) -> Module:
        """Layer by layer, in float64; a layer that only one module adapts has its update times its weight."""
        own = loras(modules, space=self.name)
        rank = widest_rank(own) if options.rank is None else options.rank
        merged = {}
        for path in dict.fromkeys(path for module in own for path in module.factors):
            shares = zip(weights.of(path), own, strict=True)
            found = [(share, m.factors[path]) for share, m in shares if share != 0 and path in m.factors]
            if found:
                merged[path] = self._layer(found, options, rank=rank)
        return LoraModule.build(merged, name="merged", backbone=None)

    def _layer(self, found: Sequence[tuple[float, Factors]], options: Options, *, rank: int) -> Factors:
        cores, shares = Cores.of([factor for _, factor in found]), [share for share, _ in found]
        if len(found) == 1:
            kept = leading(cores.weighted_sum(shares), rank)
        else:
            kept = self.flattened(leading(self.combined(cores, shares, options), rank))
        return balanced(*cores.outside(kept), like=found[0][1])

    def combined(self, cores: Cores, shares: Sequence[float], options: Options) -> Tensor:
        """One core (p, q) from those of two or more modules with their weights."""
        del options
        return cores.weighted_sum(shares)

    def flattened(self, kept: Triplets) -> Triplets:
        """The spectrum after the cut, which only "core_iso" changes."""
        return kept
