"""LoRA in a form that does not depend on how its update is written as two factors."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, cast

import numpy as np

from headstart.embeddings.arrays import Array, canonical_factors
from headstart.embeddings.contract import Embedding, Subject
from headstart.embeddings.tupate import require_finite, tuned_parameters
from headstart.errors import ModuleError, SettingError

if TYPE_CHECKING:
    from headstart.kinds import LoraModule, Module
    from headstart.kinds.lora import Factors

__all__ = ["Canonical", "plain_lora"]


@dataclass(frozen=True)
class Canonical(Embedding):
    """`tupate` of a LoRA module whose factors are rewritten as the singular value decomposition of its update.

    The update B·A is the same for R·A and B·R⁻¹, so that two modules may compute the same function and have unlike
    parameters. Here they have the same vector; for the form and for equal singular values, see `canonical_factors`. The
    other kinds have no such freedom between two factors; `tupate` embeds them.

    With `rank`, only so many of the largest singular values of each layer are kept, and zeros stand for those that a
    smaller module does not have, so that modules of different ranks have vectors of one length.
    """

    name = "canonical"
    source = "Headstart; the average is that of Zhou et al., 2022, §3.2"

    rank: int | None = None

    def __post_init__(self) -> None:
        if self.rank is not None and self.rank < 1:
            raise SettingError(f"canonical: rank={self.rank} keeps nothing; give 1 or more")

    def of(self, subject: Subject) -> Array:
        """Raises `ModuleError` for a module that is not plain LoRA."""
        plain = plain_lora(subject.module, which="whose factors have one form")
        factors = {path: _rewritten(factors, self.rank) for path, factors in plain.factors.items()}
        return tuned_parameters(replace(plain, factors=factors))


def plain_lora(module: Module, *, which: str) -> LoraModule:
    """The module. Raises `ModuleError` for one that diverged, and, saying `which`, for another kind or a variant."""
    if module.kind != "lora" or module.only_ranked:
        remedy = "rank it by its predictions, such as by loss" if module.only_ranked else "use tupate"
        raise ModuleError(f"'{module.name}' is no plain LoRA module, {which}; {remedy}")
    require_finite(module)
    return cast("LoraModule", module)


def _rewritten(factors: Factors, rank: int | None) -> Factors:
    a, b = canonical_factors(factors.a, factors.b, factors.scaling)
    if rank is not None:
        missing = max(0, rank - len(a))
        a, b = np.pad(a[:rank], ((0, missing), (0, 0))), np.pad(b[:, :rank], ((0, 0), (0, missing)))
    held = factors.a.double()
    return factors._replace(a=held.new_tensor(a), b=held.new_tensor(b), scaling=1.0)
