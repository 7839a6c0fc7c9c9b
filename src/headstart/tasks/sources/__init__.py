"""Sources of rows: one reader per file format, and the code that finds a task's tables from a path or an id."""

from headstart.tasks.sources.locate import SOURCES, SPLIT_NAMES, Located, locate
from headstart.tasks.sources.rows import Rows

__all__ = ["SOURCES", "SPLIT_NAMES", "Located", "Rows", "locate"]
