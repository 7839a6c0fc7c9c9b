"""The methods that are compared, one file each: a method makes the module that tuning begins from; none tunes."""

from typing import TYPE_CHECKING

from headstart.registry import Registry

if TYPE_CHECKING:
    from headstart.comparing.methods.contract import Method

__all__ = ["METHODS"]

METHODS: "Registry[Method]" = Registry(
    "method",
    group="headstart.methods",
    contract="headstart.comparing.methods.contract:Method",
    members={
        "scratch": "headstart.comparing.methods.scratch:Scratch",
        "random": "headstart.comparing.methods.random:Random",
        "average": "headstart.comparing.methods.average:Average",
        "manual": "headstart.comparing.methods.manual:Manual",
        "best_single": "headstart.comparing.methods.best_single:BestSingle",
        "ensemble": "headstart.comparing.methods.ensemble:Ensemble",
    },
    instances=True,
)
