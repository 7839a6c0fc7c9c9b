"""Merge rules, one file each: a rule gives each module a weight. No rule reads tensors or runs the backbone."""

from headstart.blending.rules.contract import Candidate, HeldOut, Learning, Request, Rule, Weighed
from headstart.registry import Registry

__all__ = ["RULES", "Candidate", "HeldOut", "Learning", "Request", "Rule", "Weighed"]

RULES: Registry[Rule] = Registry(
    "merge rule",
    group="headstart.rules",
    contract="headstart.blending:Rule",
    members={
        "softmax": "headstart.blending.rules.softmax:Softmax",
        "uniform": "headstart.blending.rules.uniform:Uniform",
        "top_k": "headstart.blending.rules.top_k:TopK",
        "best_single": "headstart.blending.rules.best_single:BestSingle",
        "manual": "headstart.blending.rules.manual:Manual",
        "held_out": "headstart.blending.rules.held_out:HeldOutTemperature",
        "gradient": "headstart.blending.rules.gradient:Gradient",
        "nevergrad": "headstart.blending.rules.nevergrad:Nevergrad",
    },
    instances=True,
)
