"""TIES: trim, elect a sign, average what agrees (Yadav et al., 2023), on the raw tensors; for comparison."""

from collections.abc import Sequence

import torch
from torch import Tensor

from headstart.blending.spaces.aligned import aligned_parameters
from headstart.blending.spaces.options import Options
from headstart.kinds import Module

__all__ = ["ties"]


def ties(modules: Sequence[Module], weights: Sequence[float], options: Options) -> Module:
    """Of each tensor the numbers of largest magnitude stay, a share `options.kept` of them; each place takes the
    sign with the larger weighted sum; the weighted mean is over the modules that have it (Yadav et al., 2023, §4).

    The paper's mean has equal weights. Raises `MergeError` when shapes or layers differ.
    """
    if len(modules) == 1:
        return modules[0]
    parameters = aligned_parameters(modules)
    shares = torch.tensor(list(weights), dtype=torch.float64)
    return modules[0].with_parameters(
        {
            name: _tensor(torch.stack([a[name].double() for a in parameters]), shares, options.kept)
            for name in parameters[0]
        }
    )


def _tensor(values: Tensor, weights: Tensor, density: float) -> Tensor:
    """One merged tensor from N stacked ones (N, …)."""
    flat = values.flatten(1)
    keep = max(1, round(density * flat.shape[1]))
    edge = flat.abs().kthvalue(flat.shape[1] - keep + 1, dim=1, keepdim=True).values
    trimmed = torch.where(flat.abs() >= edge, flat, 0.0)
    shares = weights.unsqueeze(1)
    elected = (trimmed * shares).sum(0).sign()
    agrees = (trimmed.sign() == elected) & (elected != 0)
    mass = (agrees * shares).sum(0)
    mean = (trimmed * agrees * shares).sum(0) / torch.where(mass > 0, mass, 1.0)
    return mean.view(values.shape[1:]).float()
