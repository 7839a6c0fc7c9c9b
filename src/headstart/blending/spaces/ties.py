"""TIES: trim, elect a sign, average what agrees (Yadav et al., 2023), on the changes of the raw tensors."""

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn.functional import hardshrink, threshold

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
        for name in held[0]:
            origin = options.origin[name].double()
            changes = [parameters[name].double() - origin for parameters in held]
            merged[name] = (origin + agreed(changes.__getitem__, weights.of(name), options.kept)).float()
        return modules[0].with_parameters(merged)


def agreed(change: Callable[[int], Tensor], shares: Sequence[float], density: float) -> Tensor:
    """The merged change; `change(i)` makes that of a module anew, and is asked twice. A single module keeps its own.

    A module at a time, so that what is worked on stays in the processor's cache.
    """
    present = [(number, share) for number, share in enumerate(shares) if share > 0]
    if len(present) == 1:
        return change(present[0][0])
    elected, edges = torch.zeros_like(change(0)), {}
    for number, share in present:
        own = change(number)
        edges[number] = math.nextafter(_edge(own, density), 0)
        elected.add_(hardshrink(own, edges[number]), alpha=share)
    elected.sign_()
    mass, total = torch.zeros_like(elected), torch.zeros_like(elected)
    for number, share in present:
        agreeing = threshold(change(number) * elected, edges[number], 0)
        total.add_(agreeing, alpha=share)
        mass.add_(agreeing.sign_(), alpha=share)
    return elected * total / torch.where(mass > 0, mass, 1.0)


def _edge(change: Tensor, density: float) -> float:
    """The smallest magnitude that is kept; NumPy selects it several times as fast as torch."""
    sizes = change.abs().flatten().cpu().numpy()
    place = len(sizes) - max(1, round(density * len(sizes)))
    sizes.partition(place)
    return float(sizes[place])
