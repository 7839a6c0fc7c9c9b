"""What every source gives, and the reading of text files line by line."""

import gzip
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import BinaryIO, cast

from headstart.errors import TaskError

__all__ = ["Rows", "numbered_lines"]

Rows = Iterator[tuple[str, Mapping[str, object]]]
"""Pairs of where a row stands ("data.jsonl, line 3") and its fields by name."""


def numbered_lines(path: Path) -> Iterator[tuple[int, str]]:
    """The lines of a UTF-8 text file (also `.gz`), counted from 1. Raises `TaskError` where it cannot be read."""
    number = 0
    try:
        with _open(path) as stream:
            for number, line in enumerate(stream, start=1):
                yield number, line.decode("utf-8-sig" if number == 1 else "utf-8")
    except UnicodeDecodeError as error:
        raise TaskError(f"{path}, line {number}: not UTF-8 ({error.reason}); save the file as UTF-8") from error
    except (OSError, EOFError, zlib.error) as error:
        raise TaskError(f"cannot read {path}, line {number + 1}: {error}; check the file") from error


def _open(path: Path) -> BinaryIO:
    if path.suffix.lower() == ".gz":
        return cast("BinaryIO", gzip.open(path, "rb"))
    return path.open("rb")
