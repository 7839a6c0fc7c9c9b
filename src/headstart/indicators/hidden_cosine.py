"""The angle between what parts of the backbone compute under a module and under the reference module."""

from dataclasses import dataclass

from torch import Tensor
from torch.nn import functional

from headstart.indicators.contract import HiddenIndicator

__all__ = ["HiddenCosine"]


@dataclass(frozen=True)
class HiddenCosine(HiddenIndicator):
    """cos(h, h̃), h the output of a part of the backbone under the module, h̃ the same under the reference module."""

    name = "hidden_cosine"
    source = "Lv et al., 2023, appendix B"
    version = 2

    def per_vector(self, states: Tensor, reference: Tensor) -> Tensor:
        """cos(h_j, h̃_j), (N, M)."""
        return functional.cosine_similarity(states, reference.unsqueeze(0), dim=2)
