"""The modules' raw parameters in common terms."""

from collections.abc import Sequence

from torch import Tensor

from headstart.kinds import Module

__all__ = ["aligned_parameters"]


def aligned_parameters(modules: Sequence[Module]) -> list[dict[str, Tensor]]:
    """`parameters` of every module in the first one's terms; raises `MergeError` when shapes or layers differ."""
    first = modules[0]
    if first.only_ranked and len(modules) > 1:
        first.aligned_to(modules[1])  # raises with the true reason: the others would only see different names
    return [module.aligned_to(first).parameters() for module in modules]
