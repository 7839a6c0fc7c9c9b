"""The papers' space: average the raw tensors."""

from collections.abc import Sequence

import torch

from headstart.kinds import Module

__all__ = ["parameters"]


def parameters(modules: Sequence[Module], weights: Sequence[float], rank: int | None = None) -> Module:
    """Σ w_i θ_i, tensor by tensor (Lv et al., 2023, eq. 1). For LoRA this averages A and B apart, which is not Σ w_i ΔW_i.

    Raises `MergeError` when shapes or layers differ.
    """
    del rank  # the result has the modules' own
    first = modules[0]
    arrays = [module.aligned_to(first).arrays() for module in modules]
    if len(modules) == 1:
        return first
    summed = {
        name: sum((w * a[name].double() for w, a in zip(weights, arrays, strict=True)), torch.zeros(()).double()).float()
        for name in arrays[0]
    }
    return first.with_arrays(summed)
