"""AdamW (Loshchilov and Hutter, 2019), as `torch.optim.AdamW` computes it with its default settings."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from headstart.tuning.optimizers.contract import Optimizer, Pace

__all__ = ["AdamW"]

BETAS = (0.9, 0.999)
EPS = 1e-8


class AdamW(Optimizer):
    """Every number is updated on its own, so that lanes only need their own learning rates and counts."""

    def fresh(self, blocks: Sequence[Tensor]) -> dict[str, Tensor]:
        """Running means of gradients ("mean.0" …) and of their squares ("square.0" …), one of each per block."""
        return {f"{part}.{n}": torch.zeros_like(block) for n, block in enumerate(blocks) for part in ("mean", "square")}

    def update(
        self, blocks: Sequence[Tensor], gradients: Sequence[Tensor], state: Mapping[str, Tensor], *, pace: Pace
    ) -> None:
        """One step of every lane."""
        first, second = (1 - beta**pace.step for beta in BETAS)
        for n, (values, gradient) in enumerate(zip(blocks, gradients, strict=True)):
            kept, size, spread = (
                scalar.to(values.device, values.dtype).view(-1, *[1] * (values.dim() - 1))
                for scalar in (1 - pace.lr * pace.weight_decay, pace.lr / first, second.sqrt())
            )
            mean, square = state[f"mean.{n}"], state[f"square.{n}"]
            mean.lerp_(gradient, 1 - BETAS[0])
            square.mul_(BETAS[1]).addcmul_(gradient, gradient, value=1 - BETAS[1])
            values.mul_(kept).sub_((mean / square.sqrt().div_(spread).add_(EPS)).mul_(size))
