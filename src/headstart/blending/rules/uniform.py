"""The plain average."""

from collections.abc import Sequence

from headstart.blending.rules.contract import Candidate, Rule, RuleOptions
from headstart.blending.weights import shared

__all__ = ["Uniform"]


class Uniform(Rule):
    """The same weight for every module that can be merged."""

    name = "uniform"
    source = "Lv et al., 2023, §3.1"
    needs_scores = False

    def takes_all(self, options: RuleOptions) -> bool:
        """Always."""
        del options
        return True

    def weights(self, candidates: Sequence[Candidate], options: RuleOptions) -> tuple[float, ...]:
        """1/n for the n that can be merged."""
        del options  # nothing to choose
        return shared([index for index, candidate in enumerate(candidates) if candidate.merges], len(candidates))
