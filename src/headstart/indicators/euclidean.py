"""How far some steps of tuning on the new task move a module's parameters."""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from headstart.architectures import Part
from headstart.indicators.contract import WHOLE, AfterSteps, Need, OfPart, ParameterIndicator, part_name

__all__ = ["Euclidean"]

LAYER = re.compile(r"(.*?\.\d+)\.")


@dataclass(frozen=True)
class Euclidean(OfPart, AfterSteps, ParameterIndicator):
    """−Σ_l ‖θ_l − θ'_l‖₂, θ'_l the parameters of layer l in the module's best state within `m` steps on the task.

    Layers are the numbered ones of the backbone; everything outside them is one more.
    """

    name = "euclidean"
    source = "Lv et al., 2023, appendix C"
    needs = frozenset({Need.PARAMETERS, Need.TUNING})
    distribution = False

    def by_part(
        self, own: Mapping[str, Tensor], other: Mapping[str, Tensor], parts: Mapping[str, Part]
    ) -> dict[str, float]:
        """The sum over the layers of the requested parameters, and over those of each sublayer among them."""
        squared: dict[str, dict[str, float]] = {}
        for name, value in own.items():
            if self.takes(parts[name]):
                found = LAYER.match(name)
                layer = found[1] if found else ""
                moved = float((value.double() - other[name].double()).square().sum())
                for part in (WHOLE, part_name(parts[name])):
                    layers = squared.setdefault(part, {})
                    layers[layer] = layers.get(layer, 0.0) + moved
        return {part: -math.fsum(map(math.sqrt, layers.values())) for part, layers in squared.items()}
