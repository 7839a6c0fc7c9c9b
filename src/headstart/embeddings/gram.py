"""LoRA by the directions into which its updates move each layer's outputs, whatever its random start."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np

from headstart.embeddings.arrays import Array
from headstart.embeddings.canonical import plain_lora
from headstart.embeddings.contract import Embedding, Subject
from headstart.errors import SettingError

if TYPE_CHECKING:
    from headstart.kinds import LoraModule
    from headstart.kinds.lora import Factors

__all__ = ["Gram"]


@dataclass(frozen=True)
class Gram(Embedding):
    """The Gram matrix ΔWΔWᵀ of each layer's update, in random quadratic forms sᵀ(ΔWΔWᵀ)t.

    LoRA begins with a random A and with B = 0. Tuning turns A little, so that ΔW = BA reads mostly random directions of
    the inputs for good, and two modules of one task that began from other random values have parameters as unlike as
    those of two tasks. What B learns, the directions of the *outputs*, depends on the task. They are those of ΔWΔWᵀ,
    which also does not depend on how ΔW is written as two factors, or on its rank. (Where a layer is an embedding, A
    begins with zeros and B is random: there it is ΔWᵀΔW.)

    The cosine of two vectors estimates Σ ⟨G, G'⟩ / √(Σ ⟨G, G⟩ · Σ ⟨G', G'⟩), summed over layers, where ⟨G, G'⟩ is
    ‖ΔWᵀΔW'‖² of a layer. There are p = `projections` vectors of random signs for each layer, the same for every module,
    and each two of them, s and t, give a number: p(p − 1)/2 numbers a layer. Their products have no bias as estimates
    of the sums, and err the less the more layers and projections there are.
    """

    name = "gram"
    source = "Headstart; directions of updates are compared by Hu et al., 2022, §7.2; random projections"

    projections: int = 24

    def __post_init__(self) -> None:
        if self.projections < 2:
            raise SettingError(f"gram: projections={self.projections} makes no pair; give 2 or more")

    def of(self, subject: Subject) -> Array:
        """(layers · p(p − 1)/2,). Raises `ModuleError` for a module that is not plain LoRA."""
        plain = plain_lora(subject.module, which="which begins with random numbers")
        return np.concatenate(list(self._forms(plain)))

    def _forms(self, module: LoraModule) -> Iterator[Array]:
        """Of each layer by its path, sᵀGt for every two projections."""
        pairs = np.triu_indices(self.projections, 1)
        for path, factors in sorted(module.factors.items()):
            root = _root(factors)
            seen = _projections(path, self.projections, len(root)) @ root
            yield (seen @ seen.T)[pairs]


def _root(factors: Factors) -> Array:
    """R with RRᵀ = ΔWΔWᵀ, (out, r), or ΔWᵀΔW, (in, r), for an embedding; ΔW itself is not formed."""
    a, b = (np.asarray(each, dtype=np.float64) for each in (factors.a, factors.b))
    kept, other = (a.T, b) if factors.embedding else (b, a.T)
    return np.asarray(factors.scaling * kept @ np.linalg.qr(other).R.T)


@lru_cache(maxsize=512)  # a byte a number: some 60 MB of all layers of a model of 7 billion parameters
def _projections(path: str, count: int, width: int) -> Array:
    """Random signs (count, width), always the same for a path and a width."""
    seed = int.from_bytes(hashlib.sha256(f"headstart gram {path}".encode()).digest()[:8], "little")
    return np.random.default_rng(seed).choice(np.array([-1, 1], dtype=np.int8), size=(count, width))
