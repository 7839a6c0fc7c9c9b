"""The mean virtual token of a prompt or a prefix."""

import numpy as np

from headstart.embeddings.arrays import Array, mean_over
from headstart.embeddings.contract import Embedding, Subject
from headstart.embeddings.tupate import require_finite
from headstart.errors import ModuleError

__all__ = ["Pooled"]


class Pooled(Embedding):
    """`tupate` of prompts and prefixes, averaged over their virtual tokens as well, whose order means little."""

    name = "pooled"
    source = "Vu et al., 2022, §3.2.1; Su et al., 2022, §5"

    def of(self, subject: Subject) -> Array:
        """Raises `ModuleError` for a module without virtual tokens."""
        module = subject.module
        shape = module.token_shape
        if shape is None:
            raise ModuleError(f"'{module.name}' is a {module.kind} module, which has no virtual tokens; use tupate")
        require_finite(module)
        layers = (mean_over(rows).reshape(-1, *shape) for rows in module.layer_vectors())
        return np.concatenate([mean_over(tokens, axis=1).ravel() for tokens in layers])
