"""Small LoRA modules to merge, and their sums by full matrices in float64."""

import math
from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from headstart.kinds import LoraModule, PeftModule
from headstart.kinds.lora import Factors
from headstart.records import ModuleCard
from small_hub import filled

UNLIKE = (
    filled({"one": (5, 4, 2), "two": (3, 6, 1)}, seed=1, scaling=2.0, name="a"),
    filled({"one": (5, 4, 3)}, seed=2, scaling=0.25, name="b"),
    filled({"two": (3, 6, 2), "three": (9, 8, 2)}, seed=3, scaling=-1.5, name="c"),
)
"""Modules of unequal ranks, scalings and layers."""


def full(module: LoraModule) -> dict[str, Tensor]:
    """ΔW of every layer, float64, as one writes it down."""
    return {path: f.scaling * (f.b.double() @ f.a.double()) for path, f in module.factors.items()}


def weighted(modules: Sequence[LoraModule], weights: Sequence[float]) -> dict[str, Tensor]:
    """Σ w_i ΔW_i by full matrices."""
    total: dict[str, Tensor] = {}
    for module, weight in zip(modules, weights, strict=True):
        for path, update in full(module).items():
            total[path] = total[path] + weight * update if path in total else weight * update
    return total


def norm(updates: dict[str, Tensor]) -> float:
    return math.sqrt(sum(float(update.pow(2).sum()) for update in updates.values()))


def distance(one: dict[str, Tensor], other: dict[str, Tensor]) -> float:
    assert one.keys() == other.keys()
    return norm({path: one[path] - other[path] for path in one})


def number_module(a: float, b: float, *, scaling: float = 1.0, name: str = "m") -> LoraModule:
    """One layer of width 1 → 1 and rank 1."""
    factors = {"layer": Factors(torch.tensor([[a]]), torch.tensor([[b]]), scaling)}
    return LoraModule.build(factors, name=name, backbone=None)


def stated(module: LoraModule, **card: object) -> LoraModule:
    return replace(module, card=module.card.model_copy(update=card))


def dora(name: str = "dora") -> PeftModule:
    card = ModuleCard(name=name, kind="lora", parameters=1, tensor_hash="")
    return PeftModule(card, {}, {"base_model.model.one.lora_A.weight": torch.ones(2, 4)}, {"one": (4, 5)}, "DoRA")
