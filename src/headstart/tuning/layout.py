"""The parameters of a stack as a few blocks of equal shapes, so that few operations update all of them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["Layout", "side_by_side"]


@dataclass(frozen=True)
class Layout:
    """The names of a stack's parameters in groups of equal shape; a block (N, G, …) holds the G tensors of a group."""

    groups: tuple[tuple[str, ...], ...]

    @classmethod
    def of(cls, parameters: Mapping[str, Tensor]) -> "Layout":
        """The layout for a stack's parameters, each (N, …)."""
        by_shape: dict[tuple[int, ...], list[str]] = {}
        for name, value in parameters.items():
            by_shape.setdefault(tuple(value.shape[1:]), []).append(name)
        return cls(tuple(tuple(names) for names in by_shape.values()))

    def blocks(self, parameters: Mapping[str, Tensor]) -> list[Tensor]:
        """Copies of a stack's parameters, a block for each group."""
        return [torch.stack([parameters[name].detach() for name in names], dim=1) for names in self.groups]

    def bind(
        self, parameters: Mapping[str, Tensor], blocks: Sequence[Tensor], gradients: Sequence[Tensor] | None = None
    ) -> None:
        """Let a stack's parameters be views of the blocks, and their gradients views of `gradients`.

        Autograd adds to an existing gradient, so one operation clears, measures or scales all gradients of a block.
        """
        for index, names in enumerate(self.groups):
            for place, name in enumerate(names):
                value = parameters[name]
                value.data = blocks[index][:, place]
                if gradients is not None:
                    value.requires_grad_(True)
                    value.grad = gradients[index][:, place]


def side_by_side(tensors: Sequence[Tensor]) -> Tensor:
    """Tensors (G, …) of N lanes as one (N, G, …), laid out so that each of the G is contiguous over all lanes.

    Autograd needs parameters and gradients in this layout.
    """
    return torch.stack(list(tensors), dim=1).transpose(0, 1)
