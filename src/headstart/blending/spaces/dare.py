"""DARE: drop at random and rescale before averaging (Yu et al., 2024), on the changes of the raw tensors."""

from collections.abc import Sequence

import torch

from headstart.blending.spaces.aligned import aligned_parameters
from headstart.blending.spaces.contract import Options, Space
from headstart.blending.weights import Weights
from headstart.kinds import Module

__all__ = ["Dare"]


class Dare(Space):
    """θ₀ + Σ w_i m_i (θ_i − θ₀) / d, θ₀ the origin: each number of each module's change is kept with probability
    d = `density` (Yu et al., 2024, §3). The mean over draws equals the result of space "parameters". For comparison.
    """

    name = "dare"
    source = "Yu et al., 2024, §3"
    needs = frozenset({"equal shapes", "origin"})
    reads = frozenset({"density", "seed"})

    def merge(self, modules: Sequence[Module], weights: Weights, options: Options) -> Module:
        """Drawn module by module, with `options.seed`; in float64, stored in float32."""
        generator = torch.Generator().manual_seed(options.seed)
        held = aligned_parameters(modules)
        shares = {name: weights.of(name) for name in held[0]}
        summed = {name: options.origin[name].double() for name in held[0]}
        for index, parameters in enumerate(held):
            for name, value in sorted(parameters.items()):
                alone = shares[name][index] == 1  # where only one module has a weight, it keeps its change
                kept = 1.0 if alone else options.kept
                drawn = torch.rand(value.shape, generator=generator) < kept
                change = value.double() - options.origin[name].double()
                summed[name] = summed[name] + shares[name][index] / kept * drawn * change
        return modules[0].with_parameters({name: value.float() for name, value in summed.items()})
