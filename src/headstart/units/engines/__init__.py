"""Engines, one per file: an engine decides where units are computed, never what comes out."""

from headstart.registry import Registry
from headstart.units.engines.contract import Engine, WorkerContext

__all__ = ["ENGINES", "Engine", "WorkerContext"]

ENGINES: Registry[type[Engine]] = Registry(
    "engine",
    members={name: f"headstart.units.engines.{name}:{name.title()}" for name in ("serial", "processes")},
    group="headstart.engines",
    contract="headstart.units.engines:Engine",
)
"""The engines, by the name that a user types."""
