"""How much of the backbone's activations a module's update takes up, over all of its directions."""

from collections.abc import Sequence

from torch import Tensor

from headstart.indicators.contract import ProjectionIndicator
from headstart.indicators.projection import lengths, onto, own_basis
from headstart.kinds.updates import Update

__all__ = ["Spectral"]


class Spectral(ProjectionIndicator):
    """‖ΔWx‖ / (‖ΔW‖_F ‖x‖) with ΔW = BA, in the bare backbone's activations x; between 0 and 1.

    The paper's score is ‖ΣVᵀx‖ = ‖ΔWx‖ with ΔW = UΣVᵀ. Here it is divided by the sizes of the update and of the
    activation, which the paper does not do: otherwise the module that was tuned longest would be the most similar one
    to every task, and the layers with the largest activations would decide alone.
    """

    name = "spectral"
    source = "Fleshman and Van Durme, 2025 (SpectR); normalized here"
    version = 2

    def prepare(self, updates: Sequence[Update]) -> Tensor:
        """P with ‖Px‖ = ‖ΔWx‖ / ‖ΔW‖_F of each update, (N, r, D), or its diagonal (N, D)."""
        return own_basis(updates)

    def per_token(self, held: Tensor, activations: Tensor) -> Tensor:
        """‖Px‖ / ‖x‖, (M, N)."""
        if held.dim() == 2:
            squared = onto(held.square(), activations.square())
        else:
            squared = onto(held.flatten(0, 1), activations).view(-1, *held.shape[:2]).square().sum(2)
        return squared.sqrt() / lengths(activations).clamp(min=1e-30).unsqueeze(1)
