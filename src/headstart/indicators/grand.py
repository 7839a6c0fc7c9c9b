"""Gradient norm."""

from collections.abc import Mapping

import torch
from torch import Tensor

from headstart.indicators.contract import GradientIndicator

__all__ = ["Grand"]


class Grand(GradientIndicator):
    """−‖∇CE‖₂ over all of a module's parameters: how little the module still has to change for the task."""

    name = "grand"
    source = "Lv et al., 2023, §2.2 (after Paul et al., 2021)"
    distribution = False
    temperature = 0.1

    def from_squared_gradients(self, squared: Mapping[str, Tensor]) -> Tensor:
        """−sqrt of the sum over parameters, (N,)."""
        return -torch.stack(list(squared.values())).sum(0).sqrt()
