"""Task heads: what an encoder has where a language model has its vocabulary.

Everywhere else, a head's answers take the place of tokens: a classifier's target is one label per example, that of an
extractive span is two positions in the text, and that of a regression is one number.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional

from headstart.backbones.hooks import attached
from headstart.errors import ModuleError
from headstart.records import HeadCard

__all__ = ["Head", "HeadLayer", "HeadStack", "require_head", "target_loss"]


HeadLayer = nn.Linear | nn.LayerNorm
"""The layers that a task head may have; Headstart computes no head with other layers."""


@dataclass(frozen=True, eq=False)
class Head:
    """A task head: its card, and its tensors by their names in the backbone ("classifier.weight"); float32, CPU."""

    card: HeadCard
    tensors: Mapping[str, Tensor]


class HeadStack:
    """N heads of equal shapes, computed together: every tensor with a leading dimension N, in `parameters`."""

    def __init__(self, heads: Sequence[Head], *, device: torch.device, dtype: torch.dtype) -> None:
        self.size = len(heads)
        self.card = heads[0].card
        self._cards = [head.card for head in heads]
        self.parameters = {
            name: torch.stack([head.tensors[name] for head in heads]).to(device, dtype) for name in heads[0].tensors
        }

    def head(self, index: int) -> Head:
        """The head at `index`, with its current values."""
        tensors = {name: value[index].detach().float().cpu().clone() for name, value in self.parameters.items()}
        return Head(self._cards[index], tensors)

    def on(self, layers: Mapping[str, HeadLayer]) -> AbstractContextManager[None]:
        """Let each of the backbone's head layers, given by path, compute with module n's own weights in its rows."""
        return attached(
            layer.register_forward_hook(partial(self._linear if isinstance(layer, nn.Linear) else self._norm, path))
            for path, layer in layers.items()
        )

    def _linear(self, path: str, _: nn.Module, args: tuple[Tensor, ...], __: Tensor) -> Tensor:
        x = args[0]
        weight = self.parameters[f"{path}.weight"].to(x.dtype)
        bias = self.parameters.get(f"{path}.bias")
        made = torch.bmm(x.reshape(self.size, -1, x.shape[-1]), weight.transpose(1, 2))
        made = made if bias is None else made + bias.to(x.dtype).unsqueeze(1)
        return made.view(*x.shape[:-1], weight.shape[1])

    def _norm(self, path: str, layer: nn.LayerNorm, args: tuple[Tensor, ...], _: Tensor) -> Tensor:
        x = args[0]
        made = functional.layer_norm(x, layer.normalized_shape, eps=layer.eps).reshape(self.size, -1, x.shape[-1])
        made = made * self.parameters[f"{path}.weight"].to(x.dtype).unsqueeze(1)
        bias = self.parameters.get(f"{path}.bias")
        made = made if bias is None else made + bias.to(x.dtype).unsqueeze(1)
        return made.view(x.shape)


def require_head(card: HeadCard, shapes: Mapping[str, tuple[int, ...]], *, name: str, backbone: str) -> None:
    """Raise `ModuleError` unless a head has exactly the tensors of `shapes`, of their shapes.

    `shapes` are those of a head with the same number of outputs on this backbone; `name` is the module's.
    """
    for tensor in sorted(card.shapes.keys() | shapes.keys()):
        here, mine = shapes.get(tensor), card.shapes.get(tensor)
        if here is None or mine is None or tuple(mine) != here:
            said = "none" if mine is None else "×".join(map(str, mine))
            wanted = "none" if here is None else "×".join(map(str, here))
            raise ModuleError(
                f"the task head of module '{name}' has {said} as {tensor}, where {backbone} has {wanted}; "
                "load the backbone it was tuned on, or leave it out"
            )


def target_loss(logits: Tensor, gold: Tensor) -> Tensor:
    """The loss of each target, (N, M), in float32, from logits (N, M, V) and gold (M,).

    Cross-entropy in nats if gold are class, token or position numbers; the squared error if they are values.
    """
    if gold.is_floating_point():
        return (logits.squeeze(2).float() - gold).square()
    index = gold.view(1, -1, 1).expand(logits.shape[0], -1, 1)
    return -logits.float().log_softmax(-1).gather(2, index).squeeze(2)
