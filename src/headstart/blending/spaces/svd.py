"""The best approximation of the exact sum at a given rank."""

from collections.abc import Sequence

from headstart.blending.low_rank import LowRank, balanced, combination
from headstart.blending.spaces.contract import Options, Space, loras, widest_rank
from headstart.blending.weights import Weights
from headstart.kinds import LoraModule, Module
from headstart.kinds.lora import Factors

__all__ = ["Svd"]


class Svd(Space):
    """The rank-r module nearest to Σ w_i ΔW_i in the Frobenius norm (Eckart and Young, 1936).

    r is `rank`, else the largest rank of the modules. Singular values are shared evenly between A and B.
    """

    name = "svd"
    source = "Eckart and Young, 1936"
    needs = frozenset({"lora"})
    reads = frozenset({"rank"})
    linear = True

    def merge(self, modules: Sequence[Module], weights: Weights, options: Options) -> Module:
        """The nearest module; for a single module at its own rank, the same function with other factors."""
        own = loras(modules, space=self.name)
        firsts = {path: factor for module in reversed(own) for path, factor in module.factors.items()}
        updates = combination(own, weights)
        keep = widest_rank(own) if options.rank is None else options.rank
        merged = {path: _cut(update, keep, like=firsts[path]) for path, update in updates.items()}
        return LoraModule.build(merged, name="merged", backbone=None)


def _cut(update: LowRank, rank: int, *, like: Factors) -> Factors:
    u, values, v = update.truncated(rank)
    return balanced(u, values, v.T, like=like)
