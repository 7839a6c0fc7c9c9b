"""The terms in which an architecture is described: stacks of blocks, their sublayers, and the sublayers' layers."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal, NamedTuple

__all__ = ["Architecture", "Blocks", "Part", "Role", "Sublayer", "SublayerName"]

_NUMBER = re.compile(r"0|[1-9][0-9]{0,5}")

SublayerName = Literal["attention", "cross_attention", "feed_forward"]

Role = Literal[
    "query", "key", "value", "query_key_value", "position_query", "position_key", "attention_output",
    "gate", "up", "gate_up", "down",
]  # fmt: skip
"""What a linear layer does. "up" widens, "down" narrows again; "query_key_value" and "gate_up" are single matrices."""


class Part(NamedTuple):
    """The part of a backbone that a layer belongs to; `None` for what it does not belong to.

    `stack`: "encoder" or "decoder", `block`: the block's number in it, from 0; `sublayer`: see `Sublayer.name`.
    """

    stack: str | None
    block: int | None
    sublayer: SublayerName | None


@dataclass(frozen=True)
class Sublayer:
    """One sublayer of a block. It computes h from the residual stream e, and h is added to e.

    All paths are relative to the block.

    Attributes:
        name: which of the three sublayers it is.
        roots: everything at or below one of these paths belongs to the sublayer.
        layers: its linear layers by path, with what each does.
        output: the module that computes h: the sublayer itself, its last layer, or a norm between it and the addition.
        norm: the layer norm that reads e before the sublayer or, if the model normalizes after it, e + h.
        stream: the module that is called with e, and the position of that input in its signature, from 0.
        unit: the module that computes through transformers' attention interface, with keys that a prefix can be put
            before; `None` if Headstart puts no prefix there.
        adapters: the path under which AdapterHub's library keeps its bottleneck adapters.
    """

    name: SublayerName
    roots: tuple[str, ...]
    layers: Mapping[str, Role]
    output: str
    norm: str
    stream: tuple[str, int]
    adapters: str
    unit: str | None = None

    def holds(self, path: str) -> bool:
        """Whether a path in the block is at or below one of the roots."""
        return any(path == root or path.startswith(f"{root}.") for root in self.roots)


@dataclass(frozen=True)
class Blocks:
    """A stack of equal blocks: `stack` says which one ("encoder" or "decoder"), `path` where it is, below the base."""

    stack: str
    path: str
    sublayers: tuple[Sublayer, ...]


@dataclass(frozen=True)
class Architecture:
    """One structure of backbones, which several of transformers' `model_type`s may share. Data only.

    Attributes:
        base: the path of the model below the head, with its dot.
        blocks: every stack of blocks, in the order in which they compute.
        norm_behind: whether e + h is normalized after each sublayer, rather than e before it.
        library: whether AdapterHub's library `adapters` 1.3 has these models itself, without an added interface.
        transposed: whether the linear layers hold their weights transposed, as transformers' Conv1D does.
        relative_bias: whether attention adds a bias for the distance between query and key.
        shared: why modules cannot share a pass, such as a layer with an input common to all rows; "" if they can.
        requires: fields of a model's configuration and the values that they must have for this description to be true.
    """

    base: str
    blocks: tuple[Blocks, ...]
    norm_behind: bool = False
    library: bool = False
    transposed: bool = False
    relative_bias: bool = False
    shared: str = ""
    requires: Mapping[str, object] = field(default_factory=dict)

    def locate(self, path: str) -> tuple[Blocks, int, str] | None:
        """The stack of blocks, the block's number and the path in the block; `None` for a path outside all blocks.

        `path` may be given with the base or without it.
        """
        below = path.removeprefix(self.base)
        for blocks in self.blocks:
            start = f"{blocks.path}."
            number, _, rest = below.removeprefix(start).partition(".")
            if below.startswith(start) and _NUMBER.fullmatch(number):
                return blocks, int(number), rest
        return None

    def part(self, path: str) -> Part:
        """Which part a layer belongs to, by its path; see `headstart.architectures.part_of`."""
        found = self.locate(path)
        if found is None:
            return Part(None, None, None)
        blocks, number, rest = found
        sublayer = next((sublayer.name for sublayer in blocks.sublayers if sublayer.holds(rest)), None)
        return Part(blocks.stack, number, sublayer)

    @cached_property
    def units(self) -> dict[str, tuple[str, str]]:
        """The attention units that can have prefixes: the path of the blocks, and the unit's path in the block.

        The keys are "encoder" and "decoder" for self-attention there, and "cross_attention".
        """
        return {
            blocks.stack if sublayer.name == "attention" else sublayer.name: (blocks.path, sublayer.unit)
            for blocks in self.blocks
            for sublayer in blocks.sublayers
            if sublayer.unit is not None
        }

    @cached_property
    def roles(self) -> dict[str, Role]:
        """What the linear layers of all blocks do, by their paths in a block."""
        return {
            path: role
            for blocks in self.blocks
            for sublayer in blocks.sublayers
            for path, role in sublayer.layers.items()
        }

    def names(self, *roles: Role) -> tuple[str, ...]:
        """Names of all layers of these roles for PEFT's `target_modules`: the shortest ends of paths that fit no other.

        If no end is unambiguous, it is the whole path in the block: BERT's "output.dense" is also the end of
        "attention.output.dense".
        """
        return tuple(dict.fromkeys(self._shortest(path) for path, role in self.roles.items() if role in roles))

    def _shortest(self, path: str) -> str:
        parts = path.split(".")
        ends = [".".join(parts[start:]) for start in range(len(parts) - 1, -1, -1)]
        return next(end for end in ends if self._is_clear(end, path))

    def _is_clear(self, end: str, path: str) -> bool:
        named = {role for other, role in self.roles.items() if other == end or other.endswith(f".{end}")}
        return named == {self.roles[path]} or end == path
