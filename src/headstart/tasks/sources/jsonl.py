"""JSONL: one JSON object per line; blank lines are skipped."""

import json
from pathlib import Path

from headstart.errors import TaskError
from headstart.tasks.sources.rows import Rows, numbered_lines

__all__ = ["read"]


def read(path: Path) -> Rows:
    """The rows of a JSONL file (also `.gz`). Raises `TaskError` naming the line that is not a JSON object."""
    for number, line in numbered_lines(path):
        if not line.strip():
            continue
        where = f"{path}, line {number}"
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise TaskError(f"{where}: not valid JSON ({error}); write one JSON object a line") from error
        if not isinstance(row, dict):
            raise TaskError(f"{where}: a {type(row).__name__}, not a JSON object; write one JSON object a line")
        yield where, row
