"""How strongly the backbone's activations point along a module's strongest direction."""

from collections.abc import Sequence

from torch import Tensor

from headstart.indicators.contract import ProjectionIndicator
from headstart.indicators.projection import onto, right_vectors
from headstart.kinds.updates import Update

__all__ = ["Arrow"]


class Arrow(ProjectionIndicator):
    """|x·v| with v the top right singular vector of the update ΔW = BA, in the bare backbone's activations x.

    As in the paper, neither x nor the update's size is divided out: v has length 1.
    """

    name = "arrow"
    source = "Ostapenko et al., 2024 (Arrow routing)"
    version = 2

    def prepare(self, updates: Sequence[Update]) -> Tensor:
        """v of each update, (N, D)."""
        return right_vectors(updates)

    def per_token(self, held: Tensor, activations: Tensor) -> Tensor:
        """|x·v|, (M, N)."""
        return onto(held, activations).abs()
