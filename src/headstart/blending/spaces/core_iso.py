"""Isotropic merging in Core Space: the directions of the sum, all equally strong."""

import torch

from headstart.blending.spaces.bases import NEGLIGIBLE, Triplets
from headstart.blending.spaces.core_space import Core

__all__ = ["CoreIso"]


class CoreIso(Core):
    """The leading singular directions of Σ w_i M_i, each with the mean of their singular values, so that the sum of
    these stays as it is (Iso-C: Marczak et al., 2025, §4.1). The paper keeps all directions; here, those of the rank.
    """

    name = "core_iso"
    source = "Marczak et al., 2025, §4.1, in the space of Panariello et al., 2025"
    linear = False

    def flattened(self, kept: Triplets) -> Triplets:
        """The mean is over the values that are not negligible; the others stay."""
        present = kept.values > NEGLIGIBLE * kept.values[0]
        mean = kept.values[present].mean() if bool(present.any()) else kept.values[0]
        return kept._replace(values=torch.where(present, mean, kept.values))
