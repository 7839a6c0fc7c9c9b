"""Sources of rows: one reader per file format, and the code that finds a task's tables from a path or an id."""

from headstart.tasks.sources.locate import SETTINGS_FILE, SOURCES, SPLIT_NAMES, Located, locate, settings_path
from headstart.tasks.sources.memory import locate_rows
from headstart.tasks.sources.rows import Rows

__all__ = ["SETTINGS_FILE", "SOURCES", "SPLIT_NAMES", "Located", "Rows", "locate", "locate_rows", "settings_path"]
