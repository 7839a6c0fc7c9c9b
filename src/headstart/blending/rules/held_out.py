"""Softmax weights whose temperature is chosen on held-out loss."""

import math

from headstart.blending.blend import Blend
from headstart.blending.rules.contract import Request, Rule, Weighed
from headstart.blending.weights import Weights, check_top_k, highest, lowest, softmax, temperature_for

__all__ = ["HeldOutTemperature"]


class HeldOutTemperature(Rule):
    """softmax(S_i / τ) with the τ that has the lowest held-out loss, among those that give the effective numbers
    1, 2, 4, 8, … below the number n of modules, and n itself (equal weights). Of equal losses, the smaller τ's counts.
    """

    name = "held_out"
    source = "ours"
    needs = frozenset({"scores", "loss"})
    reads = frozenset({"top_k", "split"})

    def check(self, blend: Blend, *, family: str = "") -> None:
        """As for every rule; besides, k must be at least 1."""
        super().check(blend, family=family)
        check_top_k(blend.top_k)

    def most(self, blend: Blend) -> int | None:
        """`top_k`."""
        return blend.top_k

    def weigh(self, request: Request) -> Weighed:
        """Modules without a score get 0."""
        top_k, scores = request.blend.top_k, [candidate.score for candidate in request.candidates]
        count = len(highest(scores, top_k))
        numbers = [*(2.0**power for power in range(count.bit_length()) if 2**power < count), float(count)]
        temperatures = [temperature_for(number, scores, top_k=top_k) for number in numbers]
        tried = [Weights(modules=softmax(scores, temperature=tau, top_k=top_k)) for tau in temperatures]
        best = lowest(request.held_out.losses(tried))
        tau = temperatures[best]
        return Weighed(tried[best], None if math.isinf(tau) else tau)
