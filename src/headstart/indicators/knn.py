"""Accuracy of the nearest neighbours among a module's features."""

from dataclasses import dataclass
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional

from headstart.indicators.contract import FeatureIndicator

__all__ = ["Knn"]


@dataclass(frozen=True)
class Knn(FeatureIndicator):
    """1 if most of the `k` examples with the nearest features (Euclidean) have the example's answer, else 0.

    The example itself is left out. Of classes with equally many neighbours, the one with the nearer neighbours wins.
    """

    name = "knn"
    source = "Puigcerver et al., 2021"
    distribution = True
    version = 2

    k: Annotated[int, Field(gt=0)] = 5

    def from_features(self, features: Tensor, targets: Tensor) -> Tensor:
        """1 or 0 for each module and example, (N, E)."""
        most = min(self.k, features.shape[1] - 1)
        distances = torch.cdist(features, features, compute_mode="donot_use_mm_for_euclid_dist")
        distances.diagonal(dim1=1, dim2=2).fill_(torch.inf)
        nearest = distances.argsort(dim=2, stable=True)[:, :, :most]
        # Together the fractions stay below one vote, so they only decide between equals.
        votes = 1 + 0.5 ** torch.arange(1, most + 1, dtype=torch.float64) / 2
        classes = functional.one_hot(targets[nearest], int(targets.max()) + 1).double()
        return ((classes * votes.view(-1, 1)).sum(2).argmax(2) == targets).double()
