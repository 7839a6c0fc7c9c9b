"""Modules as inputs of units of work, and as results of such units."""

import shutil
from pathlib import Path

from headstart.kinds.contract import Module
from headstart.kinds.lazy import AnyModule
from headstart.kinds.loading import load_module
from headstart.kinds.saving import save_module
from headstart.units import Context, Unit

__all__ = ["given_module", "kept_module"]


def given_module(given: AnyModule | Unit | None, context: Context) -> Module | None:
    """The module that an input is, or that the unit given as input made; `None` stays `None`."""
    if given is None:
        return None
    if not isinstance(given, Unit):
        return given.load()
    folder = context.result(given).module
    assert folder is not None, f"{given.label} makes no module"
    return load_module(folder)


def kept_module(module: Module, unit: Unit, context: Context) -> Path:
    """Save the module that a unit made, and return its folder for the unit's `Result`."""
    folder = context.work(unit) / "module"
    shutil.rmtree(folder, ignore_errors=True)  # a killed run may have left one
    save_module(module, folder)
    return folder
