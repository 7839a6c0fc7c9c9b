"""The papers' space: average the raw tensors."""

from collections.abc import Sequence

import torch

from headstart.blending.spaces.aligned import aligned_parameters
from headstart.blending.spaces.options import Options
from headstart.kinds import Module

__all__ = ["parameters"]


def parameters(modules: Sequence[Module], weights: Sequence[float], options: Options) -> Module:
    """Σ w_i θ_i, tensor by tensor (Lv et al., 2023, eq. 1). For LoRA this averages A and B apart: not Σ w_i ΔW_i.

    Raises `MergeError` when shapes or layers differ.
    """
    del options  # the result has the modules' own shape
    if len(modules) == 1:
        return modules[0]
    parameters = aligned_parameters(modules)
    summed = {name: torch.zeros(value.shape, dtype=torch.float64) for name, value in parameters[0].items()}
    for weight, array in zip(weights, parameters, strict=True):
        for name, value in array.items():
            summed[name] += weight * value.double()
    return modules[0].with_parameters({name: value.float() for name, value in summed.items()})
