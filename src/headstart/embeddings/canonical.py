"""LoRA in a form that does not depend on how its update is written as two factors."""

from dataclasses import replace

import torch

from headstart.embeddings.arrays import Array, canonical_factors
from headstart.embeddings.contract import Embedding, Subject
from headstart.embeddings.tupate import tuned_parameters
from headstart.errors import ModuleError
from headstart.kinds import LoraModule
from headstart.kinds.lora import Factors

__all__ = ["Canonical"]


class Canonical(Embedding):
    """`tupate` of a LoRA module whose factors are rewritten as the singular value decomposition of its update.

    The update B·A is the same for R·A and B·R⁻¹, so that two modules may compute the same function and have unlike
    parameters. Here they have the same vector; for the form and for equal singular values, see `canonical_factors`. The
    other kinds have no such freedom between two factors; `tupate` embeds them.
    """

    name = "canonical"
    source = "Headstart; the average is that of Zhou et al., 2022, §3.2"

    def of(self, subject: Subject) -> Array:
        """Raises `ModuleError` for a module that is not plain LoRA."""
        module = subject.module
        if not isinstance(module, LoraModule):
            raise ModuleError(f"'{module.name}' is no plain LoRA module, whose factors have one form; use tupate")
        factors = {path: _rewritten(factors) for path, factors in module.factors.items()}
        return tuned_parameters(replace(module, factors=factors)).numpy()


def _rewritten(factors: Factors) -> Factors:
    a, b = canonical_factors(factors.a, factors.b, factors.scaling)
    return factors._replace(a=torch.from_numpy(a), b=torch.from_numpy(b), scaling=1.0)
