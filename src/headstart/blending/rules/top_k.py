"""The average of the best."""

from collections.abc import Sequence

from headstart.blending.rules.contract import Candidate, Rule, RuleOptions
from headstart.blending.weights import check_top_k, highest, shared
from headstart.errors import SettingError

__all__ = ["TopK"]


class TopK(Rule):
    """The same weight for the k modules with the highest scores; of equal scores at the edge the earlier stays."""

    name = "top_k"
    source = "for comparison"
    needs_scores = True
    reads = frozenset({"top_k"})

    def check(self, options: RuleOptions) -> None:
        """As for every rule; k must be there and at least 1."""
        super().check(options)
        if options.top_k is None:
            raise SettingError("rule 'top_k' needs top_k, the number of modules to average; give it")
        check_top_k(options.top_k)

    def weights(self, candidates: Sequence[Candidate], options: RuleOptions) -> tuple[float, ...]:
        """1/k each, or 1/n where only n < k have a score."""
        return shared(highest([candidate.score for candidate in candidates], options.top_k), len(candidates))
