"""Gradient norm."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from headstart.architectures import Part
from headstart.indicators.contract import WHOLE, GradientIndicator, OfPart, part_name

__all__ = ["Grand"]


@dataclass(frozen=True)
class Grand(OfPart, GradientIndicator):
    """−‖∇CE‖₂ over a module's parameters: how little the module still has to change for the task.

    The norm is over all its parameters, or over those in one part of the backbone. One backward pass gives them all.
    """

    name = "grand"
    source = "Lv et al., 2023, §2.2 (after Paul et al., 2021)"
    distribution = False

    def by_part(self, squared: Mapping[str, Tensor], parts: Mapping[str, Part]) -> dict[str, Tensor]:
        """−sqrt of the sum over the requested parameters, and over those of each sublayer of each block among them."""
        groups: dict[str, list[Tensor]] = {}
        for name, value in squared.items():
            if self.takes(parts[name]):
                groups.setdefault(WHOLE, []).append(value)
                groups.setdefault(part_name(parts[name]), []).append(value)
        return {name: -torch.stack(values).sum(0).sqrt() for name, values in groups.items()}
