"""The papers' rule."""

import math

from headstart.blending.blend import Blend
from headstart.blending.rules.contract import Request, Rule, Weighed
from headstart.blending.weights import (
    Weights,
    check_effective,
    check_softmax,
    check_top_k,
    highest,
    softmax,
    temperature_for,
    usual_effective,
)
from headstart.errors import SettingError

__all__ = ["Softmax"]


class Softmax(Rule):
    """softmax(S_i / τ) over all modules, or over the `top_k` best; τ is given, or follows from an effective number."""

    name = "softmax"
    source = "Lv et al., 2023, eq. 1"
    needs = frozenset({"scores"})
    reads = frozenset({"temperature", "effective", "top_k"})

    def check(self, blend: Blend, *, family: str = "") -> None:
        """As for every rule; besides, τ must be above 0, and k and the effective number at least 1."""
        super().check(blend, family=family)
        if blend.temperature is not None and blend.effective is not None:
            raise SettingError(
                f"temperature {blend.temperature:g} and effective {blend.effective:g} both say how concentrated the "
                "weights are; leave one out"
            )
        if blend.temperature is not None:
            check_softmax(blend.temperature, blend.top_k)
        elif blend.effective is not None:
            check_effective(blend.effective, blend.top_k)
        check_top_k(blend.top_k)

    def most(self, blend: Blend) -> int | None:
        """`top_k`."""
        return blend.top_k

    def weigh(self, request: Request) -> Weighed:
        """Modules without a score get 0."""
        blend, scores = request.blend, [candidate.score for candidate in request.candidates]
        temperature = blend.temperature
        if temperature is None:
            weighed = len(highest(scores, blend.top_k))
            effective = usual_effective(weighed) if blend.effective is None else blend.effective
            temperature = temperature_for(effective, scores, top_k=blend.top_k)
        shares = softmax(scores, temperature=temperature, top_k=blend.top_k)
        return Weighed(Weights(modules=shares), None if math.isinf(temperature) else temperature)
