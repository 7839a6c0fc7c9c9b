"""Adafactor (Shazeer and Stern, 2018) with given learning rates, as `transformers.optimization.Adafactor` computes it.

The settings are those in the code of Lv et al., 2023: no relative steps, no scaling by the parameters' size.
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from headstart.tuning.optimizers.contract import Optimizer, Pace

__all__ = ["Adafactor"]

DECAY = -0.8
EPS = 1e-30
LARGEST = 1.0
"""The root mean square to which an update of one tensor is clipped."""


class Adafactor(Optimizer):
    """Second moments, factored into rows and columns over the last two dimensions of a tensor; a vector's are not."""

    def fresh(self, blocks: Sequence[Tensor]) -> dict[str, Tensor]:
        """For each block, "row.0" and "column.0" …, or "square.0" … if its tensors are vectors."""
        state = {}
        for n, block in enumerate(blocks):
            if block.dim() >= 4:
                state[f"row.{n}"] = block.new_zeros(block.shape[:-1])
                state[f"column.{n}"] = block.new_zeros((*block.shape[:-2], block.shape[-1]))
            else:
                state[f"square.{n}"] = torch.zeros_like(block)
        return state

    def update(
        self, blocks: Sequence[Tensor], gradients: Sequence[Tensor], state: Mapping[str, Tensor], *, pace: Pace
    ) -> None:
        """One step of every lane."""
        fade = 1 - pace.step**DECAY
        for n, (values, gradient) in enumerate(zip(blocks, gradients, strict=True)):
            square = gradient.square().add_(EPS)
            if f"square.{n}" in state:
                change = _averaged(state[f"square.{n}"], square, fade).rsqrt()
            else:
                row = _averaged(state[f"row.{n}"], square.mean(-1), fade)
                column = _averaged(state[f"column.{n}"], square.mean(-2), fade)
                change = (row / row.mean(-1, keepdim=True)).rsqrt_().unsqueeze(-1) * column.unsqueeze(-2).rsqrt()
            change.mul_(gradient)
            size = change.flatten(2).norm(dim=2) / change[0, 0].numel() ** 0.5
            lr = _beside(pace.lr, size)
            lr = lr / (size / LARGEST).clamp(min=1.0)
            values.mul_(_beside(1 - pace.lr * pace.weight_decay, values)).sub_(change.mul_(_beside(lr, change)))


def _averaged(average: Tensor, value: Tensor, fade: Tensor) -> Tensor:
    return average.mul_(_beside(fade, average)).add_(value.mul_(_beside(1 - fade, value)))


def _beside(scalars: Tensor, tensor: Tensor) -> Tensor:
    """The scalars, one for each lane or for each of a lane's tensors, in a shape that can multiply `tensor`."""
    return scalars.to(tensor.device, tensor.dtype).view(*scalars.shape, *[1] * (tensor.dim() - scalars.dim()))
