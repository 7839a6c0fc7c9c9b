"""How a fresh prefix is shaped, and the projection it may be tuned through (Li and Liang, 2021, §4.3)."""

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


def drawn(
    length: int, whole: int, *, width: int, bottleneck: int | None, generator: torch.Generator
) -> dict[str, Tensor]:
    """A standard normal `prefix` (length, whole), or a projection to it as PyTorch begins one.

    The projection's input, `tokens` (length, width), is standard normal; `bottleneck` is its inner width, `None` for a
    plain prefix.
    """
    if bottleneck is None:
        return {"prefix": torch.randn(length, whole, generator=generator)}

    def uniform(*size: int, inputs: int) -> Tensor:
        return torch.empty(size).uniform_(-1 / math.sqrt(inputs), 1 / math.sqrt(inputs), generator=generator)

    return {
        "tokens": torch.randn(length, width, generator=generator),
        "inner": uniform(bottleneck, width, inputs=width),
        "inner_bias": uniform(bottleneck, inputs=width),
        "outer": uniform(whole, bottleneck, inputs=bottleneck),
        "outer_bias": uniform(whole, inputs=bottleneck),
    }
