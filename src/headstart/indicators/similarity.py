"""The cosine of task embeddings."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from headstart.embeddings import Subject, make_embedding
from headstart.errors import ModuleError
from headstart.indicators.contract import WeightIndicator
from headstart.kinds import Module

__all__ = ["Similarity"]


@dataclass(frozen=True)
class Similarity(WeightIndicator):
    """cos(e(O), e(Õ)), where `embedding` names e and Õ is the reference module.

    With the default, `tupate`, this is Zhou et al., 2022, §3.2.
    """

    name = "similarity"
    source = "Zhou et al., 2022, §3.2"
    distribution = False

    embedding: str = "tupate"

    def from_modules(self, modules: Sequence[Module], reference: Module) -> list[float | str]:
        """One cosine per module; a module of which there is no such embedding, or one of another length, has none."""
        embedding = make_embedding(self.embedding)
        wanted = embedding.of(Subject(reference))
        values: list[float | str] = []
        for module in modules:
            try:
                found = embedding.of(Subject(module))
            except ModuleError as error:
                values.append(str(error))
                continue
            if found.shape != wanted.shape:
                values.append(f"its embedding has {len(found)} numbers, the reference module's {len(wanted)}")
                continue
            (value,) = embedding.similarities(wanted, found[None])
            values.append("its parameters are all zero" if np.isnan(value) else float(value))
        return values
