"""Merge rules, one file each: which weight each module gets."""

from headstart.blending.rules.contract import Candidate, Rule, RuleOptions
from headstart.registry import Registry

__all__ = ["RULES", "Candidate", "Rule", "RuleOptions"]

RULES: Registry[Rule] = Registry(
    "merge rule",
    group="headstart.rules",
    members={
        "softmax": "headstart.blending.rules.softmax:Softmax",
        "uniform": "headstart.blending.rules.uniform:Uniform",
        "top_k": "headstart.blending.rules.top_k:TopK",
        "best_single": "headstart.blending.rules.best_single:BestSingle",
        "manual": "headstart.blending.rules.manual:Manual",
    },
    instances=True,
)
