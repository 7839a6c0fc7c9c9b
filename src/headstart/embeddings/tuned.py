"""TuPaTE: the tuned parameters themselves."""

from torch import Tensor

from headstart.kinds import Module

__all__ = ["tuned_parameters"]


def tuned_parameters(module: Module) -> Tensor:
    """e(O) = (1/L) Σ_l concat(θ_l), (D,), float64 (Zhou et al., 2022, §3.2); heads are not part of it.

    Averaging over the layers first is what makes the cosine meaningful. Raises `ModuleError` when the layers do not
    hold equally many parameters.
    """
    return module.layer_vectors().double().mean(0)
