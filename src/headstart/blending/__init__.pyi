from .blend import Blend
from .catalogued import candidates_at_hand, require_blendable, require_one_kind
from .fitting import check_space, fitting_space
from .merging import Merged, merge
from .rules import RULES, Candidate, HeldOut, Learning, Request, Rule, Weighed
from .spaces import SPACES
from .spaces.contract import Space
from .weights import LayerWeights, Weights, effective_number, one_hot, softmax, uniform

__all__ = [
    "RULES",
    "SPACES",
    "Blend",
    "Candidate",
    "HeldOut",
    "LayerWeights",
    "Learning",
    "Merged",
    "Request",
    "Rule",
    "Space",
    "Weighed",
    "Weights",
    "candidates_at_hand",
    "check_space",
    "effective_number",
    "fitting_space",
    "merge",
    "one_hot",
    "require_blendable",
    "require_one_kind",
    "softmax",
    "uniform",
]
