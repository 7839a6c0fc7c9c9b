"""Tuned parameters as task embeddings."""

from collections.abc import Sequence

from headstart.embeddings import tuned_parameters
from headstart.errors import ModuleError
from headstart.indicators.contract import WeightIndicator
from headstart.kinds import Module

__all__ = ["Tupate"]


class Tupate(WeightIndicator):
    """cos(e(O), e(Õ)), where e is the layer-averaged tuned parameters and Õ the reference module."""

    name = "tupate"
    source = "Zhou et al., 2022, §3.2"
    distribution = False

    def from_modules(self, modules: Sequence[Module], reference: Module) -> list[float | str]:
        """One cosine per module; a module whose shape differs from the reference module's has none."""
        wanted = tuned_parameters(reference)
        values: list[float | str] = []
        for module in modules:
            try:
                embedding = tuned_parameters(module)
            except ModuleError as error:
                values.append(str(error))
                continue
            if embedding.shape != wanted.shape:
                values.append(f"its embedding has {len(embedding)} numbers, the reference module's {len(wanted)}")
                continue
            norms = embedding.norm() * wanted.norm()
            values.append(float(embedding @ wanted / norms) if norms > 0 else "its parameters are all zero")
        return values
