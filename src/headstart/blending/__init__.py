"""Blending a hub into a start: `rules` give weights, `spaces` take the weighted sum, `ensemble` does both."""

from headstart.blending.merge import SPACES, Merged, check_space, merge, require_one_kind
from headstart.blending.rules import RULES, Candidate, Rule, RuleOptions
from headstart.blending.weights import check_softmax, effective_number, one_hot, softmax, uniform

__all__ = [
    "RULES",
    "SPACES",
    "Candidate",
    "Merged",
    "Rule",
    "RuleOptions",
    "check_softmax",
    "check_space",
    "effective_number",
    "merge",
    "one_hot",
    "require_one_kind",
    "softmax",
    "uniform",
]
