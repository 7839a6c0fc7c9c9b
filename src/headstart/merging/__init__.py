"""Merging: which weight each module gets (`rules`), and in which space the weighted sum is taken (`spaces`)."""

from headstart.merging.merge import SPACES, Merged, check_space, merge, require_one_kind
from headstart.merging.rules import RULES, Candidate, Rule, RuleOptions
from headstart.merging.weights import check_softmax, effective_number, one_hot, softmax, uniform

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
