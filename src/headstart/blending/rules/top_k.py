"""The average of the best."""

from headstart.blending.blend import Blend
from headstart.blending.rules.contract import Request, Rule, Weighed
from headstart.blending.weights import Weights, check_top_k, highest, shared
from headstart.errors import SettingError

__all__ = ["TopK"]


class TopK(Rule):
    """The same weight for the k modules with the highest scores; among equal scores at the cut, earlier ones stay."""

    name = "top_k"
    source = "for comparison"
    needs = frozenset({"scores"})
    reads = frozenset({"top_k"})

    def check(self, blend: Blend, *, family: str = "") -> None:
        """As for every rule; besides, k must be given and at least 1."""
        super().check(blend, family=family)
        if blend.top_k is None:
            raise SettingError("rule 'top_k' needs top_k, the number of modules to average; give it")
        check_top_k(blend.top_k)

    def most(self, blend: Blend) -> int | None:
        """k."""
        return blend.top_k

    def weigh(self, request: Request) -> Weighed:
        """1/k each, or 1/n if only n < k modules have a score."""
        best = highest([candidate.score for candidate in request.candidates], request.blend.top_k)
        return Weighed(Weights(modules=shared(best, len(request.candidates))))
