"""The best module alone."""

from collections.abc import Sequence

from headstart.blending.rules.contract import Candidate, Rule, RuleOptions
from headstart.blending.weights import highest, shared

__all__ = ["BestSingle"]


class BestSingle(Rule):
    """All weight on the module with the highest score; of equal scores the earlier."""

    name = "best_single"
    source = "Lv et al., 2023, appendix D"
    needs_scores = True

    def weights(self, candidates: Sequence[Candidate], options: RuleOptions) -> tuple[float, ...]:
        """1 for the best, 0 for the others."""
        del options  # nothing to choose
        return shared(highest([candidate.score for candidate in candidates], 1), len(candidates))
