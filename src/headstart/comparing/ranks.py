"""LoRA modules at one rank, so that all methods tune the same number of parameters."""

from dataclasses import replace

import torch

from headstart.blending import Weights
from headstart.blending.low_rank import combination, relative_error
from headstart.blending.spaces.contract import Options
from headstart.blending.spaces.svd import Svd
from headstart.kinds import LoraModule, Module
from headstart.kinds.lora import Factors

__all__ = ["at_rank", "blank_at_rank"]

ALONE = Weights(modules=(1.0,))


def at_rank(module: Module, rank: int | None, *, seed: int) -> Module:
    """The module with rank `rank` in every layer; unchanged if it has it, if `rank` is `None`, or if it is not LoRA.

    A larger rank is cut to the nearest ΔW of the lower rank. A smaller one is padded as a fresh module is initialized,
    so that ΔW does not change: for linear layers, the new rows of A are drawn and the new columns of B are 0; for
    embeddings, it is the other way round.
    """
    if rank is None or not isinstance(module, LoraModule):
        return module
    ranks = {factor.a.shape[0] for factor in module.factors.values()}
    if ranks == {rank}:
        return module
    cut, error = module, module.card.merge_error
    if max(ranks) > rank:
        shorter = Svd().merge([module], ALONE, Options(rank=rank))
        assert isinstance(shorter, LoraModule)
        cut, error = shorter, relative_error(combination([shorter], ALONE), combination([module], ALONE))
    fresh = _blank(cut, rank).reset(seed=seed)
    factors = {path: _filled(factor, fresh.factors[path]) for path, factor in cut.factors.items()}
    return _with_factors(module, factors, error=error)


def blank_at_rank(module: Module, rank: int | None) -> Module:
    """A module of the same layers at this rank, whose values mean nothing; the module itself if it has that rank."""
    if rank is None or not isinstance(module, LoraModule):
        return module
    if {factor.a.shape[0] for factor in module.factors.values()} == {rank}:
        return module
    return _blank(module, rank)


def _blank(module: LoraModule, rank: int) -> LoraModule:
    factors = {
        path: factor._replace(a=torch.zeros(rank, factor.a.shape[1]), b=torch.zeros(factor.b.shape[0], rank))
        for path, factor in module.factors.items()
    }
    return _with_factors(module, factors, error=None)


def _filled(factor: Factors, fresh: Factors) -> Factors:
    """The factors, followed by the last rows of A and columns of B of fresh ones."""
    own = factor.a.shape[0]
    return factor._replace(a=torch.cat([factor.a, fresh.a[own:]]), b=torch.cat([factor.b, fresh.b[:, own:]], 1))


def _with_factors(module: LoraModule, factors: dict[str, Factors], *, error: float | None) -> LoraModule:
    """The module with other factors for the same layers, and a card and configuration that agree with them."""
    built = LoraModule.build(factors, name=module.name, backbone=None)
    shape = {"rank": built.card.rank, "scaling": built.card.scaling, "parameters": built.card.parameters}
    card = module.card.model_copy(update={**shape, "tensor_hash": "", "merge_error": error})
    shaped = {key: built.config[key] for key in ("r", "lora_alpha", "rank_pattern", "alpha_pattern", "use_rslora")}
    return replace(module, factors=built.factors, card=card, config={**module.config, **shaped})
