"""The best approximation of the exact sum at a given rank."""

from collections.abc import Sequence

from headstart.blending.low_rank import combination
from headstart.blending.spaces.only_lora import only_lora
from headstart.blending.spaces.options import Options
from headstart.errors import SettingError
from headstart.kinds import LoraModule, Module
from headstart.kinds.lora import Factors

__all__ = ["svd"]


def svd(modules: Sequence[Module], weights: Sequence[float], options: Options) -> Module:
    """The rank-r module nearest to Σ w_i ΔW_i in the Frobenius norm (Eckart and Young, 1936).

    `options.rank`: r; `None` takes the largest rank among the modules. Singular values are shared evenly between A
    and B. Raises `MergeError` for kinds and variants without a low-rank form, `SettingError` for r < 1.
    """
    loras = only_lora(modules, space="svd")
    largest = max(factor.a.shape[0] for module in loras for factor in module.factors.values())
    keep = largest if options.rank is None else options.rank
    if keep < 1:
        raise SettingError(f"rank {keep} must be at least 1; leave it out to keep the largest rank among the modules")
    # What a root is taken of must be positive, and PEFT allows any α; singular values carry no sign.
    firsts = {path: factor for module in reversed(loras) for path, factor in module.factors.items()}
    merged = {}
    for path, update in combination(loras, weights).items():
        u, values, v = update.truncated(keep)
        scaling = abs(firsts[path].scaling) or 1.0
        root = (values / scaling).sqrt()
        a, b = root.unsqueeze(1) * v, u * root
        merged[path] = Factors(a.float().contiguous(), b.float().contiguous(), scaling, firsts[path].embedding)
    return LoraModule.build(merged, name="merged", backbone=None)
