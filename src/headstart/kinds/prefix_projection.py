"""How a fresh prefix is drawn, and the projection through which it may be tuned (Li and Liang, 2021, §4.3)."""

import math
from collections.abc import Mapping

import torch
from torch import Tensor

__all__ = ["drawn", "projected"]


def projected(values: Mapping[str, Tensor]) -> Tensor:
    """The prefix (…, length, layers·2·dim) that `values` hold or give: W₂ tanh(W₁ x + b₁) + b₂ for each token x.

    The leading dimensions are those of the values: none for one module, N for a stack.
    """
    if "prefix" in values:
        return values["prefix"]
    inner = values["tokens"] @ values["inner"].mT + values["inner_bias"].unsqueeze(-2)
    return torch.tanh(inner) @ values["outer"].mT + values["outer_bias"].unsqueeze(-2)


def drawn(shapes: Mapping[str, tuple[int, ...]], *, seed: int) -> dict[str, Tensor]:
    """Values of these shapes, by part or by site and part: standard normal prefixes, or projections to them.

    The input of a projection, `tokens`, is standard normal; its layers are initialized like PyTorch's linear layers.
    """
    generator = torch.Generator().manual_seed(seed)
    found = {}
    for name, shape in shapes.items():
        if name.endswith(("prefix", "tokens")):
            found[name] = torch.randn(shape, generator=generator)
        else:
            bound = 1 / math.sqrt(shapes[name.removesuffix("_bias")][1])
            found[name] = torch.empty(shape).uniform_(-bound, bound, generator=generator)
    return found
