"""TuPaTE: the tuned parameters themselves."""

import torch
from torch import Tensor

from headstart.kinds import Module

__all__ = ["tuned_parameters"]


def tuned_parameters(module: Module) -> Tensor:
    """e(O) = (1/L) Σ_l concat(θ_l), (D,), float64 (Zhou et al., 2022, §3.2); heads are left out.

    The average over layers comes first, because it makes the cosine meaningful. The papers' encoders have one stack of
    layers; for an encoder-decoder, each stack is averaged and the two averages are joined. Raises `ModuleError` if the
    layers of a stack do not have equal numbers of parameters.
    """
    return torch.cat([layers.double().mean(0) for layers in module.layer_vectors()])
