from .merging import Merged, check_space, merge, require_one_kind
from .rules import RULES, Candidate, Rule, RuleOptions
from .spaces import SPACES
from .weights import check_softmax, effective_number, one_hot, softmax, uniform

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
