"""The papers' rule."""

from collections.abc import Sequence

from headstart.blending.rules.contract import Candidate, Rule, RuleOptions
from headstart.blending.weights import check_softmax, softmax
from headstart.errors import SettingError

__all__ = ["Softmax"]


class Softmax(Rule):
    """softmax(S_i / τ) over all modules, or over the `top_k` best."""

    name = "softmax"
    source = "Lv et al., 2023, eq. 1"
    needs_scores = True
    reads = frozenset({"temperature", "top_k"})

    def check(self, options: RuleOptions) -> None:
        """As for every rule; τ must be there and above 0, k at least 1."""
        super().check(options)
        check_softmax(_temperature(options), options.top_k)

    def takes_all(self, options: RuleOptions) -> bool:
        """Unless `top_k` cuts them off."""
        return options.top_k is None

    def weights(self, candidates: Sequence[Candidate], options: RuleOptions) -> tuple[float, ...]:
        """Modules without a score get 0."""
        return softmax(
            [candidate.score for candidate in candidates], temperature=_temperature(options), top_k=options.top_k
        )


def _temperature(options: RuleOptions) -> float:
    if options.temperature is None:
        raise SettingError("rule 'softmax' needs a temperature; give one, such as the indicator's own")
    return options.temperature
