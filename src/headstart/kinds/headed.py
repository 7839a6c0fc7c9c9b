"""Modules on an encoder: a stack of any kind together with each module's task head."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from headstart.backbones import Backbone, EncoderBackbone, HeadStack
from headstart.errors import SettingError
from headstart.kinds.contract import Module, Stack
from headstart.kinds.lazy import AnyModule

__all__ = ["HeadedStack", "stack_of", "stacks"]

PREFIX = "head."
"""The beginning of the names of a head's tensors among the parameters of a stack."""


class HeadedStack(Stack):
    """A stack with one head per module. Both are tuned, but gradients for scores are only those of the modules."""

    def __init__(self, modules: Stack, heads: HeadStack) -> None:
        self.modules, self.heads = modules, heads
        answering = {f"{PREFIX}{name}": value for name, value in heads.parameters.items()}
        super().__init__(len(modules), modules.parameters | answering)
        self.concurrent = modules.concurrent

    @contextlib.contextmanager
    def attach(self, backbone: Backbone) -> Iterator[None]:
        """Attach the modules, and let each one answer through its own head."""
        assert isinstance(backbone, EncoderBackbone)  # `stack_of` makes these for encoders only
        with self.modules.attach(backbone), self.heads.on(backbone.head_layers(self.heads.card.task)):
            yield

    def module(self, index: int) -> Module:
        """The module at `index` with its head."""
        return self.modules.module(index).with_head(self.heads.head(index))

    @contextlib.contextmanager
    def gradients(self) -> Iterator[None]:
        """The gradients of the modules only: a head belongs to the task, not to the module."""
        with self.modules.gradients():
            yield

    def squared_gradients(self) -> dict[str, Tensor]:
        """The squared gradients of the modules only."""
        return self.modules.squared_gradients()


def stack_of(modules: Sequence[Module], backbone: Backbone, *, dtype: torch.dtype | None = None) -> Stack:
    """N ≥ 1 modules of one kind and `stack_key` as a stack, on an encoder with their heads; see `Module.stack`.

    Raises `SettingError` if a module has no head for the encoder, or if several cannot share a pass on this backbone.
    """
    if backbone.goes_alone and len(modules) > 1:
        raise SettingError(
            f"modules on {backbone.name} cannot share a pass: {backbone.goes_alone}; attach them one by one"
        )
    stack = type(modules[0]).stack(modules, backbone, dtype=dtype)
    if not backbone.is_encoder:
        return stack
    heads = [module.head for module in modules if module.head is not None]
    if len(heads) < len(modules):
        bare = next(module.name for module in modules if module.head is None)
        raise SettingError(f"module '{bare}' has no task head to answer through on {backbone.name}; tune it first")
    return HeadedStack(stack, HeadStack(heads, device=backbone.device, dtype=dtype or backbone.dtype))


def stacks(modules: Sequence[AnyModule], *, most: int) -> list[list[int]]:
    """Group positions 0…n-1 into stacks of at most `most` modules that compute together, in the given order.

    Stacks of one shape are about equally wide. Modules with task heads share a stack if their heads give the same
    answers and have equal shapes.
    """
    groups: dict[object, list[int]] = {}
    for index, module in enumerate(modules):
        head = module.card.head
        answers = None if head is None else (head.task, head.labels, tuple(sorted(head.shapes.items())))
        groups.setdefault((module.family, module.stack_key, answers), []).append(index)
    return [part.tolist() for members in groups.values() for part in np.array_split(members, -(-len(members) // most))]
