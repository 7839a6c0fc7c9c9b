"""Parameters with paths in a backbone, gathered into one row for each layer."""

import math
import re
from collections.abc import Mapping, Sequence
from operator import itemgetter
from typing import NamedTuple

import torch
from torch import Tensor

from headstart.errors import ModuleError

__all__ = ["rows_by_layer"]


def rows_by_layer(parameters: Mapping[str, Tensor], name: str) -> tuple[Tensor, ...]:
    """Parameters such as "decoder.block.3.layer.0.SelfAttention.q.b", gathered into rows by layer.

    The part of a path before its first number names the stack of layers, and that number is the layer's. What follows
    is the position in the layer. `name` is the module's, for the error.
    """
    stacks: dict[str, dict[int, dict[_Position, Tensor]]] = {}
    by_path = ((*key.rpartition(".")[::2], value) for key, value in parameters.items())
    for path, part, value in sorted(by_path, key=itemgetter(0)):  # the parts of a path stay in their order
        where = re.match(r"(.*?)\.(\d+)\.", f"{path}.")
        if where is not None:
            row = stacks.setdefault(where[1], {}).setdefault(int(where[2]), {})
            row[_Position(path[where.end() :], part, tuple(value.shape))] = value.flatten()
    if not stacks:
        raise ModuleError(
            f"'{name}' tunes no numbered layer, so it has no task embedding; rank it by its predictions, such as loss"
        )
    return tuple(_with_gaps([row for _, row in sorted(layers.items())]) for _, layers in sorted(stacks.items()))


class _Position(NamedTuple):
    """Where in a layer a parameter is; those of equal positions in several layers are averaged."""

    path: str
    part: str
    shape: tuple[int, ...]


def _with_gaps(layers: Sequence[Mapping[_Position, Tensor]]) -> Tensor:
    """The layers as rows of one width, (L, D); NaN where a layer has no parameter at a position."""
    positions = sorted({position: None for row in layers for position in row}, key=lambda position: position.path)
    gaps = {position: torch.full((math.prod(position.shape),), math.nan) for position in positions}
    return torch.stack([torch.cat([row.get(each, gaps[each]) for each in positions]) for row in layers])
