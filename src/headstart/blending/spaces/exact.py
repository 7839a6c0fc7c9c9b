"""The exact sum of updates, by laying the factors side by side."""

from collections.abc import Sequence

import torch

from headstart.blending.spaces.only_lora import only_lora
from headstart.blending.spaces.options import Options
from headstart.kinds import LoraModule, Module
from headstart.kinds.lora import Factors

__all__ = ["exact"]


def exact(modules: Sequence[Module], weights: Sequence[float], options: Options) -> Module:
    """A module of rank Σ r_i with ΔW = Σ w_i ΔW_i: A stacked, w_i s_i/s B_i beside each other, s the first scaling
    (1 where that is 0).

    Ranks and layers may differ. Raises `MergeError` for kinds and variants without such a form.
    """
    del options  # the rank follows from the modules
    loras = only_lora(modules, space="exact")
    if len(loras) == 1:
        return loras[0]
    merged: dict[str, Factors] = {}
    for path in dict.fromkeys(path for module in loras for path in module.factors):
        found = [(w, m.factors[path]) for w, m in zip(weights, loras, strict=True) if path in m.factors]
        scaling = found[0][1].scaling or 1.0
        a = torch.cat([factor.a for _, factor in found], 0)
        b = torch.cat([factor.b * (weight * factor.scaling / scaling) for weight, factor in found], 1)
        merged[path] = Factors(a, b, scaling, found[0][1].embedding)
    return LoraModule.build(merged, name="merged", backbone=None)
