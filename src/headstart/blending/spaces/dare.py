"""DARE: drop at random and rescale before averaging (Yu et al., 2024), on the raw tensors; for comparison."""

from collections.abc import Sequence

import torch

from headstart.blending.spaces.aligned import aligned_parameters
from headstart.blending.spaces.options import Options
from headstart.kinds import Module

__all__ = ["dare"]


def dare(modules: Sequence[Module], weights: Sequence[float], options: Options) -> Module:
    """Σ w_i m_i θ_i / d, each number of each module kept with probability d = `options.kept` (Yu et al., 2024, §3).

    The mean over draws is that of space "parameters". Raises `MergeError` when shapes or layers differ.
    """
    if len(modules) == 1:
        return modules[0]
    generator = torch.Generator().manual_seed(options.seed)
    parameters = aligned_parameters(modules)
    summed = {name: torch.zeros(value.shape, dtype=torch.float64) for name, value in parameters[0].items()}
    for weight, array in zip(weights, parameters, strict=True):
        for name, value in sorted(array.items()):
            kept = torch.rand(value.shape, generator=generator) < options.kept
            summed[name] += weight / options.kept * kept * value.double()
    return modules[0].with_parameters({name: value.float() for name, value in summed.items()})
