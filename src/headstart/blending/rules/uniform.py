"""The plain average."""

from headstart.blending.rules.contract import Request, Rule, Weighed
from headstart.blending.weights import Weights, shared

__all__ = ["Uniform"]


class Uniform(Rule):
    """The same weight for every module that can be merged."""

    name = "uniform"
    source = "Lv et al., 2023, §3.1"

    def weigh(self, request: Request) -> Weighed:
        """1/n for each of the n modules that can be merged."""
        merging = [index for index, candidate in enumerate(request.candidates) if candidate.merges]
        return Weighed(Weights(modules=shared(merging, len(request.candidates))))
