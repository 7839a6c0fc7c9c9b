"""A vector that stands for a task, with what it was made of: what embeddings return and a hub's catalogue keeps."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from headstart.showing import line, plural

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

__all__ = ["Vector"]


@dataclass(frozen=True, eq=False)
class Vector:
    """The embedding of one task.

    Args:
        method: the canonical spec of the embedding that made it ("tupate").
        kind: the kind of the module.
        backbone: `Fingerprint.weights` of the backbone that the module states; "" if it states none.
        layers: how many layers of the module were read; 0 if the embedding reads none.
        digest: `Module.digest` of the module.
        values: the numbers, (D,): float64 as computed, float32 as a hub keeps them.
    """

    method: str
    kind: str
    backbone: str
    layers: int
    digest: str
    values: NDArray[np.floating]

    def __repr__(self) -> str:
        return line(type(self).__name__, self.method, f"of a {self.kind}", plural(self.dimension, "number"))

    @property
    def dimension(self) -> int:
        """D."""
        return len(self.values)
