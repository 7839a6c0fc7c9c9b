"""Tuned parameters as task embeddings."""

from collections.abc import Sequence

from headstart.indicators.contract import WeightIndicator
from headstart.indicators.similarity import Similarity
from headstart.kinds import Module

__all__ = ["Tupate"]


class Tupate(WeightIndicator):
    """cos(e(O), e(Õ)), where e is the layer-averaged tuned parameters and Õ the reference module."""

    name = "tupate"
    source = "Zhou et al., 2022, §3.2"
    distribution = False
    version = 4

    @property
    def versions(self) -> dict[str, int]:
        """The embedding's."""
        return Similarity().versions

    def from_modules(self, modules: Sequence[Module], reference: Module) -> list[float | str]:
        """What `similarity:embedding=tupate` gives."""
        return Similarity().from_modules(modules, reference)
