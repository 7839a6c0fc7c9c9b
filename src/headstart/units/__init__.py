"""Units of work: how work is named, computed once, stored, shared between processes, and run by engines.

The types of unit themselves belong in the folder whose work they do, such as `tuning/`. Nothing here imports torch.
"""

from headstart.units.canonical import Content, Digested, canonical
from headstart.units.engines import ENGINES
from headstart.units.entry import Entry
from headstart.units.forecast import Expected, Forecast, Later, PlannedOnly, foresee, here
from headstart.units.run import Results, Tally, run
from headstart.units.store import AnyStore, Pruned, Store
from headstart.units.unit import Context, Load, Result, Unit

__all__ = [
    "ENGINES",
    "AnyStore",
    "Content",
    "Context",
    "Digested",
    "Entry",
    "Expected",
    "Forecast",
    "Later",
    "Load",
    "PlannedOnly",
    "Pruned",
    "Result",
    "Results",
    "Store",
    "Tally",
    "Unit",
    "canonical",
    "foresee",
    "here",
    "run",
]
