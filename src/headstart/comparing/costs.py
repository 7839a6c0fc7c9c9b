"""What a method's road costs, in tokens that the backbone reads: the scores of the hub's modules, and tuning."""

from collections.abc import Iterable
from dataclasses import dataclass

from headstart.ranking.scoring import Scoring
from headstart.tuning.unit import TuneUnit
from headstart.units import Context, Load, Results

__all__ = ["Tokens", "tokens_of_scores"]


@dataclass(frozen=True)
class Tokens:
    """Tokens read forward, and those of them that gradients go back through."""

    forward: int = 0
    backward: int = 0

    def plus(self, loads: Iterable[Load]) -> "Tokens":
        """These and those of other work."""
        own = list(loads)
        return Tokens(
            self.forward + sum(load.tokens for load in own), self.backward + sum(load.backward for load in own)
        )


def tokens_of_scores(scoring: Scoring, indicator: str, found: Results, context: Context) -> Tokens:
    """What the scores of all modules by one indicator took, with the tunings that it needs.

    These are of the reference module, or of every module for some steps.
    """
    units = [unit for (_, spec), unit in scoring.units.items() if spec == indicator]
    loads = [unit.load(context) for unit in units]
    alone = [load for load in loads if load.shared is None]
    together = {load.shared: load for load in loads if load.shared is not None}
    tokens = Tokens().plus([*alone, *together.values()])
    trials = {unit.trial.key: unit.trial for unit in units if isinstance(unit.trial, TuneUnit)}
    tried = [trial for trial in trials.values() if trial.key not in found.failed]
    tokens = tokens.plus(trial.taken(found.of(trial), context) for trial in tried)
    reference = scoring.reference
    if isinstance(reference, TuneUnit) and any(unit.reference is not None for unit in units):
        tokens = tokens.plus([reference.taken(found.of(reference), context)])
    return tokens
