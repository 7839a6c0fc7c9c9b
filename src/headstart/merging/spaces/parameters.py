"""The papers' space: average the raw tensors."""

from collections.abc import Sequence

import torch

from headstart.kinds import Module, PeftModule

__all__ = ["parameters"]


def parameters(modules: Sequence[Module], weights: Sequence[float], rank: int | None = None) -> Module:
    """Σ w_i θ_i, tensor by tensor (Lv et al., 2023, eq. 1). For LoRA this averages A and B apart: not Σ w_i ΔW_i.

    Raises `MergeError` when shapes or layers differ.
    """
    del rank  # the result has the modules' own
    first = modules[0]
    if len(modules) == 1:
        return first
    if isinstance(first, PeftModule):
        first.aligned_to(modules[1])  # raises, and with the true reason: the others would only see unlike names
    arrays = [module.aligned_to(first).arrays() for module in modules]
    summed = {name: torch.zeros(value.shape, dtype=torch.float64) for name, value in arrays[0].items()}
    for weight, array in zip(weights, arrays, strict=True):
        for name, value in array.items():
            summed[name] += weight * value.double()
    return first.with_arrays({name: value.float() for name, value in summed.items()})
