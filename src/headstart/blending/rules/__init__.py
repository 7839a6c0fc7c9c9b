"""Merge rules, one file each: which weight each module gets."""

from headstart.blending.rules.best_single import BestSingle
from headstart.blending.rules.contract import Candidate, Rule, RuleOptions
from headstart.blending.rules.manual import Manual
from headstart.blending.rules.softmax import Softmax
from headstart.blending.rules.top_k import TopK
from headstart.blending.rules.uniform import Uniform
from headstart.registry import Registry

__all__ = ["RULES", "Candidate", "Rule", "RuleOptions"]

RULES: Registry[Rule] = Registry("merge rule", group="headstart.rules")
for _rule in (Softmax(), Uniform(), TopK(), BestSingle(), Manual()):
    RULES.add(_rule.name, _rule)
