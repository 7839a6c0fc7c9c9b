"""Task Singular Vectors in Core Space: the modules' singular vectors are made orthogonal before they are summed."""

from collections.abc import Sequence

import torch
from torch import Tensor

from headstart.blending.spaces.bases import Cores, polar
from headstart.blending.spaces.contract import Options
from headstart.blending.spaces.core_space import Core

__all__ = ["CoreTsv"]


class CoreTsv(Core):
    """Each of T modules keeps its min(p, q) / T leading singular triplets; all left vectors together are replaced by
    the nearest orthonormal ones (Procrustes), and so are all right ones: Û diag(w_i σ_ij) V̂ᵀ (Gargiulo et al., 2025).
    The paper sums with weights of 1.
    """

    name = "core_tsv"
    source = "Gargiulo et al., 2025, §4.3, in the space of Panariello et al., 2025"
    linear = False

    def combined(self, cores: Cores, shares: Sequence[float], options: Options) -> Tensor:
        """In float64."""
        del options
        each = max(1, min(cores.shape) // len(shares))
        u, v = (torch.cat([side[:, :each] for side in sides], 1) for sides in _sides(cores))
        weighed = torch.cat([share * part.values[:each] for share, part in zip(shares, cores.parts, strict=True)])
        return (polar(u) * weighed) @ polar(v).T


def _sides(cores: Cores) -> tuple[list[Tensor], list[Tensor]]:
    return [part.u for part in cores.parts], [part.v for part in cores.parts]
