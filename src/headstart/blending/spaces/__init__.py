"""Merge spaces, one file each: what the weighted sum is taken of."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from headstart.blending.spaces.options import Options
from headstart.registry import Registry

if TYPE_CHECKING:
    from headstart.kinds import Module

__all__ = ["SPACES", "Options", "Space"]

Space = Callable[["Sequence[Module]", Sequence[float], Options], "Module"]
"""From modules, their weights and the options to the merged module."""

SPACES: Registry[Space] = Registry(
    "merge space",
    group="headstart.spaces",
    members={
        name: f"headstart.blending.spaces.{name}:{name}" for name in ("parameters", "exact", "svd", "ties", "dare")
    },
)
