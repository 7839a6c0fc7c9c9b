"""LoraHub's way to weights: loss and L1 norm, minimized without gradients; for comparison."""

import math
import warnings

from headstart.blending.blend import Blend
from headstart.blending.rules.contract import Learning, Request, Rule, Weighed
from headstart.blending.weights import Weights
from headstart.errors import MergeError
from headstart.extras import require

__all__ = ["Nevergrad"]

BUDGET = 40
"""How many weights are tried, as in LoraHub."""

LARGEST = 1.5
"""The largest size of a weight."""

WORST = 1e6
"""What the search is told of weights whose objective is infinite."""


class Nevergrad(Rule):
    """Weights in [-1.5, 1.5] with the least held-out loss + `l1` · mean |w| among 40 that nevergrad's NGOpt tries, from
    weights of 0 on (Huang et al., 2024, §3.3). For comparison; needs the extra headstart[nevergrad].
    """

    name = "nevergrad"
    source = "LoraHub: Huang et al., 2024, §3.3"
    needs = frozenset({"loss"})
    reads = frozenset({"l1", "split"})

    def check(self, blend: Blend, *, family: str = "") -> None:
        """As for every rule; besides, nevergrad must be installed."""
        super().check(blend, family=family)
        require("nevergrad", for_what="rule 'nevergrad'")

    def signs(self, blend: Blend) -> bool:
        """Always."""
        del blend
        return True

    def weigh(self, request: Request) -> Weighed:
        """Modules that cannot be merged get 0."""
        import nevergrad  # an extra, which only this rule needs

        positions = [index for index, candidate in enumerate(request.candidates) if candidate.merges]
        if not positions:
            raise MergeError("there is no module to merge; add modules to the hub")
        space = nevergrad.p.Array(init=[0.0] * len(positions), lower=[-LARGEST] * len(positions),
                                  upper=[LARGEST] * len(positions))  # fmt: skip
        space.random_state.seed(request.seed)
        search = nevergrad.optimizers.NGOpt(parametrization=space, budget=BUDGET)
        best, found = math.inf, Weights(modules=(0.0,) * len(positions), signed=True)
        for _ in range(BUDGET):
            with warnings.catch_warnings(action="ignore"):  # nevergrad sets options of SciPy that SciPy then corrects
                asked = search.ask()
            weights = Weights(modules=tuple(float(value) for value in asked.value), signed=True)
            told = _objective(request, weights.spread(positions, len(request.candidates)))
            with warnings.catch_warnings(action="ignore"):
                search.tell(asked, min(told, WORST))
            if told < best:
                best, found = told, weights
        if not math.isfinite(best):
            raise MergeError("no weights that were tried have a finite loss; use another rule")
        return Weighed(found.spread(positions, len(request.candidates)))


def _objective(request: Request, weights: Weights) -> float:
    """Held-out loss + l1 · mean |w|; infinite for weights of 0 alone, which are no module."""
    if not weights.taking_part():
        return math.inf
    (loss,) = request.held_out.losses([weights])
    l1 = Learning().l1 if request.blend.l1 is None else request.blend.l1
    count = sum(candidate.merges for candidate in request.candidates)
    return math.inf if math.isnan(loss) else loss + l1 * math.fsum(map(abs, weights.modules)) / count
