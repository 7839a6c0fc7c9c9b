"""The angle between a module's parameters and the reference module's."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from headstart.architectures import Part
from headstart.indicators.contract import WHOLE, Need, OfPart, ParameterIndicator, part_name

__all__ = ["WeightCosine"]


@dataclass(frozen=True)
class WeightCosine(OfPart, ParameterIndicator):
    """cos(flat(O), flat(Õ)) of all parameters as they are tuned, or of those in one part; Õ is the reference module."""

    name = "weight_cosine"
    source = "Lv et al., 2023, appendix C (after Vu et al., 2022)"
    needs = frozenset({Need.PARAMETERS, Need.REFERENCE})
    distribution = False

    def by_part(
        self, own: Mapping[str, Tensor], other: Mapping[str, Tensor], parts: Mapping[str, Part]
    ) -> dict[str, float]:
        """The cosine over the requested parameters, and over those of each sublayer; NaN if a side is all zero."""
        sums: dict[str, list[tuple[float, float, float]]] = {}
        for name, value in own.items():
            if self.takes(parts[name]):
                a, b = value.double().flatten(), other[name].double().flatten()
                products = (float(a @ b), float(a @ a), float(b @ b))
                for part in (WHOLE, part_name(parts[name])):
                    sums.setdefault(part, []).append(products)
        return {part: _cosine(*map(sum, zip(*found, strict=True))) for part, found in sums.items()}


def _cosine(product: float, own: float, other: float) -> float:
    return product / math.sqrt(own * other) if own * other > 0 else math.nan
