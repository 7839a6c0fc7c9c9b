"""Outputs of parts of the backbone: which layers give them, and which vectors of a pass belong to which example."""

import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from headstart.architectures import Architecture, Part
from headstart.backbones import Backbone, TargetBatch, attached
from headstart.indicators.contract import HiddenIndicator

__all__ = ["ANSWER", "Site", "States", "Vectors", "answer_features", "sites_of"]


class Site(NamedTuple):
    """A layer whose output is read, by its path, and the part of the backbone that it is the output of."""

    path: str
    part: Part


ANSWER = Site("", Part(None, None, None))
"""What the head reads: the output of everything below it."""


@dataclass(frozen=True, eq=False)
class Vectors:
    """K vectors of each of N modules, (N, K, D), and the example in the batch that each belongs to, (K,)."""

    values: Tensor
    owner: Tensor


def sites_of(indicator: HiddenIndicator, architecture: Architecture | None, blocks: Mapping[str, int]) -> list[Site]:
    """The sites whose outputs an indicator compares; none if no part of the backbone is what it asks for.

    `blocks`: how many blocks each stack has, by the stack's path below the base.
    """
    wanted = indicator.wanted
    if wanted == ANSWER.part:
        return [ANSWER]
    every = [] if architecture is None else list(_every_site(architecture, blocks))
    whole_blocks = wanted.sublayer is None
    return [site for site in every if indicator.takes(site.part) and (site.part.sublayer is None) == whole_blocks]


def _every_site(architecture: Architecture, blocks: Mapping[str, int]) -> Iterator[Site]:
    """The outputs of all blocks and of all their sublayers."""
    for stack in architecture.blocks:
        for number in range(blocks[stack.path]):
            block = f"{architecture.base}{stack.path}.{number}"
            yield Site(block, Part(stack.stack, number, None))
            for sublayer in stack.sublayers:
                yield Site(f"{block}.{sublayer.output}", Part(stack.stack, number, sublayer.name))


class States:
    """The outputs of some sites in the passes of any number of threads; each thread takes its own.

    Args:
        backbone: the backbone that is run.
        sites: what is read; each once.
    """

    def __init__(self, backbone: Backbone, sites: Sequence[Site]) -> None:
        self.backbone = backbone
        self.sites = tuple(dict.fromkeys(sites))
        self._own = threading.local()

    def watched(self) -> AbstractContextManager[None]:
        """Read the sites inside the block; what a stack changes there is read as changed if it was attached before."""
        return attached(self._hooks())

    def _hooks(self) -> Iterator[RemovableHandle]:
        for site in self.sites:
            if site != ANSWER:
                layer = self.backbone.model.get_submodule(site.path)
                yield layer.register_forward_hook(partial(self._keep_output, site))
            elif self.backbone.is_encoder:
                yield self.backbone.decoder.register_forward_hook(partial(self._keep_output, site))
            else:
                yield self.backbone.head.register_forward_hook(self._keep_input)

    def _keep_output(self, site: Site, _: nn.Module, __: Any, output: Any) -> None:
        self._seen[site] = output if isinstance(output, Tensor) else output[0]

    def _keep_input(self, _: nn.Module, args: tuple[Tensor, ...], __: Tensor) -> None:
        self._seen[ANSWER] = args[0]

    @property
    def _seen(self) -> dict[Site, Tensor]:
        if not hasattr(self._own, "seen"):
            self._own.seen = {}
        seen: dict[Site, Tensor] = self._own.seen
        return seen

    def taken(self, batch: TargetBatch, modules: int) -> dict[Site, Vectors]:
        """What this thread's last pass gave, over `batch` with so many modules; it is then forgotten."""
        found = {site: self._vectors(site, value.detach(), batch, modules) for site, value in self._seen.items()}
        self._seen.clear()
        return found

    def _vectors(self, site: Site, value: Tensor, batch: TargetBatch, modules: int) -> Vectors:
        rows = len(batch.indices)
        width = value.shape[-1]
        if site == ANSWER and not self.backbone.is_encoder:
            return Vectors(value.reshape(modules, -1, width).float(), batch.owner)
        in_encoder = self.backbone.is_encoder or site.part.stack == "encoder"
        inputs = batch.inputs
        text = inputs["decoder_input_ids" if "decoder_input_ids" in inputs and not in_encoder else "input_ids"]
        # Virtual tokens come before the text.
        value = value.reshape(modules, rows, -1, width)[:, :, -text.shape[1] :].float()
        if site == ANSWER:
            return Vectors(value[:, :, 0], torch.arange(rows))
        if in_encoder:
            seen = inputs["attention_mask"].to(value.device).unsqueeze(2)
            return Vectors((value * seen).sum(2) / seen.sum(1), torch.arange(rows))
        return Vectors(value.flatten(1, 2).index_select(1, batch.rows.to(value.device)), batch.owner)


def answer_features(vectors: Vectors) -> Tensor:
    """The first vector of each example, (N, B, D)."""
    first = torch.ones_like(vectors.owner, dtype=torch.bool)
    first[1:] = vectors.owner[1:] != vectors.owner[:-1]
    return vectors.values.index_select(1, first.nonzero().squeeze(1).to(vectors.values.device))
