"""Sources of rows: one reader per file format, and how a path or an id leads to the tables of a task."""

from headstart.tasks.sources.locate import SOURCES, SPLIT_NAMES, Located, locate
from headstart.tasks.sources.rows import Rows

__all__ = ["SOURCES", "SPLIT_NAMES", "Located", "Rows", "locate"]
