"""Units of work: how work that is computed once and kept is named, stored, shared between processes and run by engines.

What a unit computes stands in the folder whose work it is, such as `tuning/`. Nothing here imports torch.
"""

from headstart.units.canonical import Content, Digested, canonical
from headstart.units.engines import ENGINES
from headstart.units.entry import Entry
from headstart.units.run import Results, Tally, run
from headstart.units.store import AnyStore, Pruned, Store
from headstart.units.unit import Context, Result, Unit

__all__ = [
    "ENGINES",
    "AnyStore",
    "Content",
    "Context",
    "Digested",
    "Entry",
    "Pruned",
    "Result",
    "Results",
    "Store",
    "Tally",
    "Unit",
    "canonical",
    "run",
]
