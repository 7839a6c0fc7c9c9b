"""TuPaTE: the tuned parameters themselves."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from headstart.embeddings.arrays import Array, mean_over
from headstart.embeddings.contract import Embedding, Subject
from headstart.errors import ModuleError

if TYPE_CHECKING:
    from headstart.kinds import Module

__all__ = ["Tupate", "require_finite", "tuned_parameters"]


class Tupate(Embedding):
    """The tuned parameters: those of each layer in one row, and then the average over the layers.

    The average over layers comes first, because it makes the cosine meaningful. The papers' encoders have one stack of
    layers; for an encoder-decoder, each stack is averaged and the two averages are joined. Where layers hold unequal
    parameters, each is averaged over the layers that have it, at the same position and in the same shape. Heads, and
    whatever is in no numbered layer, are left out.
    """

    name = "tupate"
    source = "Zhou et al., 2022, §3.2"

    def of(self, subject: Subject) -> Array:
        """See `tuned_parameters`."""
        return tuned_parameters(subject.module)


def tuned_parameters(module: Module) -> Array:
    """e(O) = (1/L) Σ_l concat(θ_l), (D,), float64 (Zhou et al., 2022, §3.2); see `Tupate`.

    Raises `ModuleError` if the module tunes no numbered layer, is of a variant that has no embedding, or diverged.
    """
    require_finite(module)
    return np.concatenate([mean_over(rows) for rows in module.layer_vectors()])


def require_finite(module: Module) -> None:
    """Raise `ModuleError` if a parameter is not finite; NaN would be taken for one that a layer lacks."""
    name = next((name for name, value in module.parameters().items() if not value.isfinite().all()), None)
    if name is not None:
        raise ModuleError(f"{name} of '{module.name}' holds numbers that are not finite; tune it again")
