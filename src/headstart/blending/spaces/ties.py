"""TIES: trim, elect a sign, average what agrees (Yadav et al., 2023), on the changes of the raw tensors."""

from collections.abc import Sequence

import torch
from torch import Tensor

from headstart.blending.spaces.aligned import aligned_parameters
from headstart.blending.spaces.contract import Options, Space
from headstart.blending.weights import Weights
from headstart.kinds import Module

__all__ = ["Ties", "agreed"]


class Ties(Space):
    """Each tensor's change from its origin keeps its numbers of largest magnitude, a share `density` of them. Each
    position takes the sign with the larger weighted sum, and the weighted mean is over the modules with that sign
    (Yadav et al., 2023, §4). The paper's mean has equal weights. For comparison.
    """

    name = "ties"
    source = "Yadav et al., 2023, §4"
    needs = frozenset({"equal shapes", "origin"})
    reads = frozenset({"density"})

    def merge(self, modules: Sequence[Module], weights: Weights, options: Options) -> Module:
        """In float64, stored in float32."""
        held = aligned_parameters(modules)
        merged = {}
        for name, value in held[0].items():
            origin = options.origin[name].double()
            changes = torch.stack([parameters[name].double() - origin for parameters in held])
            shares = torch.tensor(weights.of(name), dtype=torch.float64)
            merged[name] = (origin + agreed(changes, shares, options.kept).view(value.shape)).float()
        return modules[0].with_parameters(merged)


def agreed(changes: Tensor, weights: Tensor, density: float) -> Tensor:
    """One merged change, flat, from N stacked ones (N, …); a single module keeps its own."""
    present = weights > 0
    flat, shares = changes[present].flatten(1), weights[present].unsqueeze(1)
    if len(flat) == 1:
        return flat[0]
    keep = max(1, round(density * flat.shape[1]))
    edge = flat.abs().kthvalue(flat.shape[1] - keep + 1, dim=1, keepdim=True).values
    trimmed = torch.where(flat.abs() >= edge, flat, 0.0)
    elected = (trimmed * shares).sum(0).sign()
    agrees = (trimmed.sign() == elected) & (elected != 0)
    mass = (agrees * shares).sum(0)
    return (trimmed * agrees * shares).sum(0) / torch.where(mass > 0, mass, 1.0)
