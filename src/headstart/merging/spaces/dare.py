"""DARE: drop at random and rescale before averaging (Yu et al., 2024), on the raw tensors; for comparison."""

from collections.abc import Sequence

import torch

from headstart.kinds import Module
from headstart.merging.spaces.aligned import aligned_arrays
from headstart.merging.spaces.options import Options

__all__ = ["dare"]


def dare(modules: Sequence[Module], weights: Sequence[float], options: Options) -> Module:
    """Σ w_i m_i θ_i / d, each number of each module kept with probability d = `options.kept` (Yu et al., 2024, §3).

    The mean over draws is that of space "parameters". Raises `MergeError` when shapes or layers differ.
    """
    if len(modules) == 1:
        return modules[0]
    generator = torch.Generator().manual_seed(options.seed)
    arrays = aligned_arrays(modules)
    summed = {name: torch.zeros(value.shape, dtype=torch.float64) for name, value in arrays[0].items()}
    for weight, array in zip(weights, arrays, strict=True):
        for name, value in sorted(array.items()):
            kept = torch.rand(value.shape, generator=generator) < options.kept
            summed[name] += weight / options.kept * kept * value.double()
    return modules[0].with_arrays({name: value.float() for name, value in summed.items()})
