"""LoRA modules at one rank and on the same layers, so that all methods tune the same number of parameters."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch

from headstart.blending import Weights
from headstart.blending.low_rank import combination, relative_error
from headstart.blending.spaces.contract import Options
from headstart.blending.spaces.svd import Svd
from headstart.kinds import LoraModule, Module
from headstart.kinds.lora import Factors

__all__ = ["at_size", "blank_of_all"]

ALONE = Weights(modules=(1.0,))
SHAPE = ("r", "lora_alpha", "rank_pattern", "alpha_pattern", "use_rslora")
"""The fields of a configuration that follow from the factors."""

ALL_NAMED = {"layers_to_transform": None, "layers_pattern": None, "exclude_modules": None}
"""With these, a configuration adapts every layer that its `target_modules` names."""


def at_size(module: Module, rank: int | None, *, like: Module | None = None, seed: int) -> Module:
    """The module at rank `rank`, on its own layers and those of `like`.

    It is unchanged if it has that size, if `rank` is `None`, or if it is not LoRA. A larger rank is cut to the nearest
    ΔW of the lower rank. A smaller one is padded as a fresh module is initialized, so that ΔW does not change: for
    linear layers, the new rows of A are drawn and the new columns of B are 0; for embeddings, it is the other way
    round. A layer that only `like` adapts is filled in the same way, so that ΔW is 0 there.
    """
    if rank is None or not isinstance(module, LoraModule):
        return module
    wanted = like.factors if isinstance(like, LoraModule) else {}
    ranks = {factor.a.shape[0] for factor in module.factors.values()}
    if ranks == {rank} and wanted.keys() <= module.factors.keys():
        return module
    cut, error = module, module.card.merge_error
    if max(ranks) > rank:
        shorter = Svd().merge([module], ALONE, Options(rank=rank))
        assert isinstance(shorter, LoraModule)
        cut, error = shorter, relative_error(combination([shorter], ALONE), combination([module], ALONE))
    # Drawn in the order of `like`, so that equal parts of the methods of one seed are equal.
    shapes = {path: cut.factors.get(path, factor) for path, factor in {**wanted, **cut.factors}.items()}
    fresh = _with_factors(module, _blank(shapes, rank), error=None).reset(seed=seed).factors
    factors = {path: _filled(cut.factors[path], new) if path in cut.factors else new for path, new in fresh.items()}
    return _with_factors(module, factors, error=error)


def blank_of_all(modules: Sequence[Module], rank: int | None) -> Module:
    """A module at this rank on the layers of all modules, whose values mean nothing.

    In each layer, it has the scaling of the first module that adapts it. If `rank` is `None`, or the first module is
    not LoRA, it is the first module.
    """
    first, factors = modules[0], dict[str, Factors]()
    if rank is None or not isinstance(first, LoraModule):
        return first
    for module in modules:
        if isinstance(module, LoraModule):
            factors = {**factors, **{path: own for path, own in module.factors.items() if path not in factors}}
    return _with_factors(first, _blank(factors, rank), error=None)


def _blank(factors: Mapping[str, Factors], rank: int) -> dict[str, Factors]:
    return {
        path: factor._replace(a=torch.zeros(rank, factor.a.shape[1]), b=torch.zeros(factor.b.shape[0], rank))
        for path, factor in factors.items()
    }


def _filled(factor: Factors, fresh: Factors) -> Factors:
    """The factors, followed by the last rows of A and columns of B of fresh ones."""
    own = factor.a.shape[0]
    return factor._replace(a=torch.cat([factor.a, fresh.a[own:]]), b=torch.cat([factor.b, fresh.b[:, own:]], 1))


def _with_factors(module: LoraModule, factors: Mapping[str, Factors], *, error: float | None) -> LoraModule:
    """The module with other factors, and a card and configuration that agree with them."""
    built = LoraModule.build(factors, name=module.name, backbone=None)
    shape: dict[str, Any] = {
        "rank": built.card.rank,
        "scaling": built.card.scaling,
        "parameters": built.card.parameters,
    }
    config = {**module.config, **{field: built.config[field] for field in SHAPE}}
    if factors.keys() != module.factors.keys():
        shape["targets"] = built.card.targets
        config |= {**ALL_NAMED, "target_modules": built.config["target_modules"]}
    card = module.card.model_copy(update={**shape, "tensor_hash": "", "merge_error": error})
    return replace(module, factors=built.factors, card=card, config=config)
