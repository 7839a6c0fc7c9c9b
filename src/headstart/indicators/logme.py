"""The evidence for a linear model on a module's features."""

import math

import torch
from torch import Tensor
from torch.nn import functional

from headstart.indicators.contract import FeatureIndicator

__all__ = ["LogMe"]

WIDEST = 20.0
"""How many factors of e the ratio of noise to signal may be away from the features' own scale."""
GRID, ZOOMS = 81, 4


class LogMe(FeatureIndicator):
    """max over α, β of log p(y | F, α, β) / E for a linear model of the features F, the mean over the classes.

    y is 1 for the class and 0 for the others (for a regression, the value itself); y = Fw + ε with prior variances 1/α
    of each weight and 1/β of the noise. With the eigenvalues s of FFᵀ and z, y in their basis, the best 1/β for a given
    δ = α/β is v = mean(z² / (1 + s/δ)), and the evidence −½ (log(2πv) + 1 + mean(log(1 + s/δ))) is searched over δ
    alone. Where the noise can be 0, the evidence stays finite, and its limit is approached.
    """

    name = "logme"
    source = "You et al., 2021"

    def from_features(self, features: Tensor, targets: Tensor) -> Tensor:
        """The evidence per example of each module, (N,)."""
        y = targets.unsqueeze(1) if targets.is_floating_point() else functional.one_hot(targets).double()
        eigenvalues, basis = torch.linalg.eigh(features @ features.mT)
        spectrum = eigenvalues.clamp(min=0).unsqueeze(1)
        squared = (basis.mT @ y).square().mT
        # A class without any member, or features that are all 0, leave nothing to find.
        start = spectrum.mean(2).clamp(min=1e-300).log().expand(squared.shape[:2])
        middle, reach = start, WIDEST
        for _ in range(ZOOMS):
            steps = torch.linspace(-reach, reach, GRID, dtype=torch.float64)
            ratios = (middle.unsqueeze(2) + steps).exp()
            found = _evidence(spectrum, squared, ratios)
            best = found.argmax(2, keepdim=True)
            middle = ratios.gather(2, best).squeeze(2).log()
            reach *= 2 / (GRID - 1)
        return found.gather(2, best).squeeze(2).mean(1)


def _evidence(spectrum: Tensor, squared: Tensor, ratios: Tensor) -> Tensor:
    """The evidence per example (N, K, G) at G values of δ for each class: `spectrum` (N, 1, E), `squared` (N, K, E)."""
    growth = 1 + spectrum.unsqueeze(2) / ratios.unsqueeze(3)
    variance = (squared.unsqueeze(2) / growth).mean(3).clamp(min=1e-300)
    return -0.5 * ((2 * math.pi * variance).log() + 1 + growth.log().mean(3))
