"""The exact sum of updates, by laying the factors side by side."""

from collections.abc import Sequence

import torch

from headstart.blending.spaces.contract import Options, Space, loras
from headstart.blending.weights import Weights
from headstart.kinds import LoraModule, Module
from headstart.kinds.lora import Factors

__all__ = ["Exact"]


class Exact(Space):
    """A module of rank Σ r_i with ΔW = Σ w_i ΔW_i: A stacked, w_i s_i/s B_i beside each other, s the first scaling
    (1 where that is 0). Ranks and layers may differ.
    """

    name = "exact"
    source = "ours"
    needs = frozenset({"lora"})
    grows = True
    linear = True

    def merge(self, modules: Sequence[Module], weights: Weights, options: Options) -> Module:
        """The exact sum; a layer in which no module has both a weight and factors is not adapted."""
        del options  # the rank follows from the modules
        own = loras(modules, space=self.name)
        merged: dict[str, Factors] = {}
        for path in dict.fromkeys(path for module in own for path in module.factors):
            shares = zip(weights.of(path), own, strict=True)
            found = [(weight, m.factors[path]) for weight, m in shares if weight != 0 and path in m.factors]
            if not found:
                continue
            scaling = found[0][1].scaling or 1.0
            a = torch.cat([factor.a for _, factor in found], 0)
            b = torch.cat([factor.b * (weight * factor.scaling / scaling) for weight, factor in found], 1)
            merged[path] = Factors(a, b, scaling, found[0][1].embedding)
        return LoraModule.build(merged, name="merged", backbone=None)
