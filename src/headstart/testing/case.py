"""What every check of the conformance suite works with: one kind on one backbone, and how results are reported."""

import copy
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from headstart.backbones import Backbone, Encoded, EncoderBackbone, Head, TargetBatch, TextFormat
from headstart.kinds import Module, Stack, fresh_module, load_module, save_module, stack_of
from headstart.records import CARD_FILE, HeadCard
from headstart.testing.backbones import tiny_backbone

__all__ = [
    "TOLERANCE",
    "Aside",
    "Case",
    "Outcome",
    "Reference",
    "Result",
    "Violation",
    "close",
    "copied",
    "require",
    "same_head",
]

Result = Literal["passed", "refused", "failed", "skipped"]

Reference = Callable[[Module, Backbone, Encoded], Tensor]
"""Computes a module on a float64 backbone for one example: logits at its target positions, (targets, V)."""

TOLERANCE = 1e-5
"""How far apart float32 results may be, as a fraction of the largest of them."""

TEXTS = (("a warm film", "yes"), ("dull", "no"), ("it never comes to life", "maybe so"))
"""Inputs and targets of unequal lengths."""

LABELS = HeadCard(task="classification", outputs=len(TEXTS), labels=tuple(target for _, target in TEXTS))
"""The targets on an encoder, which are labels."""

SPREAD = 0.2
"""Standard deviation of the noise added to a fresh module's parameters, so that none is zero."""


@dataclass(frozen=True)
class Outcome:
    """What one check found for one kind, or for the indicator of one spec, on one backbone.

    `result`: "passed"; "refused" if the kind refuses this by name; "skipped" if there is nothing to check; "failed".
    `detail`: the reason for the last three.
    """

    kind: str
    backbone: str
    check: str
    result: Result
    detail: str = ""


class Violation(Exception):  # noqa: N818 - it is a finding, which becomes an outcome
    """A kind does not keep the contract."""


class Aside(Exception):  # noqa: N818 - it is a finding, which becomes an outcome
    """A check ends early with a result other than "passed"."""

    def __init__(self, result: Result, reason: str) -> None:
        super().__init__(reason)
        self.result = result


def require(holds: bool, otherwise: str) -> None:
    """Raise `Violation` unless it holds."""
    if not holds:
        raise Violation(otherwise)


def close(actual: Tensor, expected: Tensor, what: str, *, within: float = TOLERANCE) -> None:
    """Raise `Violation` if two tensors differ anywhere by more than `within` times the largest expected value."""
    require(actual.shape == expected.shape, f"{what}: shapes {tuple(actual.shape)} and {tuple(expected.shape)}")
    distance = (actual.detach().double() - expected.detach().double()).abs().max().item()
    largest = expected.detach().abs().max().item()
    if math.isnan(distance) or distance > within * max(1.0, largest):
        raise Violation(f"{what}: {distance:.1e} apart, of values up to {largest:.1e}")


def same_head(found: Module, expected: Module) -> None:
    """Raise `Violation` unless both have the same task head, bit for bit, or none."""
    mine, theirs = (module.head.tensors if module.head is not None else {} for module in (found, expected))
    same = mine.keys() == theirs.keys() and all(torch.equal(mine[name], value) for name, value in theirs.items())
    require(same and found.card.head == expected.card.head, "the task head is another one")


class Case:
    """One kind on one backbone, untouched by other checks, with a folder to write to.

    Args:
        kind: a name in `KINDS`.
        pristine: the backbone that every case begins from; it is copied.
        folder: an empty folder.
        shape: the kind's settings by name; its defaults if there are none.
        reference: a slow and plain computation of the kind.
    """

    def __init__(
        self,
        kind: str,
        pristine: Backbone,
        folder: Path,
        *,
        shape: Mapping[str, Any],
        reference: Reference | None = None,
    ) -> None:
        self.kind = kind
        self.shape = shape
        self.reference = reference
        self.backbone = copied(pristine)
        self.folder = folder

    @cached_property
    def deeper(self) -> Backbone:
        """The same architecture with twice as many layers."""
        return tiny_backbone(self.backbone.name.removeprefix("tiny-"), layers=4)

    @cached_property
    def items(self) -> list[Encoded]:
        """`TEXTS` as ids."""
        return self.backbone.encode(TEXTS, TextFormat(suffix=":"), head=LABELS)

    @cached_property
    def batch(self) -> TargetBatch:
        """All examples in one batch."""
        return self.backbone.batch(self.items, range(len(self.items)))

    def fresh(self, seed: int = 1, *, backbone: Backbone | None = None) -> Module:
        """An untuned module."""
        return fresh_module(self.kind, backbone or self.backbone, self.shape, name=f"random-{seed}", seed=seed)

    def module(self, seed: int = 1, *, backbone: Backbone | None = None) -> Module:
        """A module with random noise added to every parameter; on an encoder, with such a head."""
        fresh, generator = self.fresh(seed, backbone=backbone), torch.Generator().manual_seed(seed)
        moved = {
            name: value + SPREAD * torch.randn(value.shape, generator=generator)
            for name, value in fresh.parameters().items()
        }
        return fresh.with_parameters(moved).with_head(_head(backbone or self.backbone, generator))

    def several(self, *seeds: int) -> list[Module]:
        """Modules of these seeds, or only the first if the backbone has no pass for several modules."""
        return [self.module(seed) for seed in (seeds[:1] if self.backbone.goes_alone else seeds)]

    def stack(self, modules: Sequence[Module]) -> Stack:
        """The modules as one stack on the backbone."""
        return stack_of(modules, self.backbone)

    def logits(self, modules: Sequence[Module]) -> Tensor:
        """Logits at the target positions of all examples, (N, M, vocabulary)."""
        stack = self.stack(modules)
        with torch.inference_mode(), stack.attach(self.backbone):
            return self.backbone.target_logits(self.batch, modules=len(stack))

    def losses(self, modules: int) -> Tensor:
        """Per module of the attached stack, the cross-entropy over all target tokens, (N,), summed in float64."""
        log_p = self.backbone.target_logits(self.batch, modules=modules).double().log_softmax(-1)
        gold = self.batch.gold.view(1, -1, 1).expand(modules, -1, 1)
        return -log_p.gather(2, gold).sum((1, 2))

    def saved(self, module: Module, name: str = "saved") -> Path:
        """The module's folder without Headstart's card, as other people would share it."""
        folder = self.folder / name
        save_module(module, folder)
        (folder / CARD_FILE).unlink()
        return folder

    def take(self, folder: Path, *, backbone: Backbone | None = None) -> Module:
        """Load a folder and check that it fits, as every command does."""
        module = load_module(folder)
        module.check(backbone or self.backbone)
        return module


def copied(backbone: Backbone) -> Backbone:
    """A separate backbone with the same weights."""
    return type(backbone)(copy.deepcopy(backbone.model), backbone.tokenizer, name=backbone.name)


def _head(backbone: Backbone, generator: torch.Generator) -> Head | None:
    if not isinstance(backbone, EncoderBackbone):
        return None
    fresh = backbone.fresh_head(LABELS, seed=0)
    return Head(
        fresh.card,
        {name: value + SPREAD * torch.randn(value.shape, generator=generator) for name, value in fresh.tensors.items()},
    )
