"""The tuned parameters without any average."""

import numpy as np

from headstart.embeddings.arrays import Array, flattened
from headstart.embeddings.contract import Embedding, Subject
from headstart.embeddings.tupate import require_finite

__all__ = ["Flat"]


class Flat(Embedding):
    """All tuned parameters of the layers, one layer after the other: `tupate` without the average.

    Nearly as long as the module, and on real prompts hardly better than chance: a comparison for the others.
    """

    name = "flat"
    source = "Zhou et al., 2022, §3.2, without the average"

    def of(self, subject: Subject) -> Array:
        """The parameters in the order of stacks, layers and columns."""
        require_finite(subject.module)
        return np.concatenate([flattened(rows) for rows in subject.module.layer_vectors()])
