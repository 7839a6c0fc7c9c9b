"""The papers' space: average the raw tensors."""

from collections.abc import Sequence

import torch

from headstart.blending.spaces.aligned import aligned_parameters
from headstart.blending.spaces.contract import Options, Space
from headstart.blending.weights import Weights
from headstart.kinds import Module

__all__ = ["Parameters"]


class Parameters(Space):
    """Σ w_i θ_i, tensor by tensor (Lv et al., 2023, eq. 1). For LoRA, A and B are averaged apart: not Σ w_i ΔW_i."""

    name = "parameters"
    source = "Lv et al., 2023, eq. 1"
    needs = frozenset({"equal shapes"})
    linear = True

    def merge(self, modules: Sequence[Module], weights: Weights, options: Options) -> Module:
        """Summed in float64, stored in float32."""
        del options  # the result has the modules' own shape
        held = aligned_parameters(modules)
        shares = {name: weights.of(name) for name in held[0]}
        summed = {name: torch.zeros(value.shape, dtype=torch.float64) for name, value in held[0].items()}
        for index, parameters in enumerate(held):
            for name, value in parameters.items():
                summed[name] += shares[name][index] * value.double()
        return modules[0].with_parameters({name: value.float() for name, value in summed.items()})
