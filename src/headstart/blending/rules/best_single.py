"""The best module alone."""

from headstart.blending.blend import Blend
from headstart.blending.rules.contract import Request, Rule, Weighed
from headstart.blending.weights import Weights, highest, shared

__all__ = ["BestSingle"]


class BestSingle(Rule):
    """All weight on the module with the highest score; the first one if scores are equal."""

    name = "best_single"
    source = "Lv et al., 2023, appendix D"
    needs = frozenset({"scores"})

    def most(self, blend: Blend) -> int | None:
        """One."""
        del blend
        return 1

    def weigh(self, request: Request) -> Weighed:
        """1 for the best, 0 for the others."""
        best = highest([candidate.score for candidate in request.candidates], 1)
        return Weighed(Weights(modules=shared(best, len(request.candidates))))
