"""The optimizers that a recipe can name, one per file. Nothing here knows of tasks, rows or schedules."""

from headstart.registry import Registry
from headstart.tuning.optimizers.contract import Optimizer, Pace

__all__ = ["OPTIMIZERS", "Optimizer", "Pace"]

OPTIMIZERS: Registry[Optimizer] = Registry(
    "optimizer",
    members={
        "adamw": "headstart.tuning.optimizers.adamw:AdamW",
        "adafactor": "headstart.tuning.optimizers.adafactor:Adafactor",
    },
    group="headstart.optimizers",
    contract="headstart.tuning.optimizers:Optimizer",
    instances=True,
)
