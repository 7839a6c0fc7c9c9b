"""What every source returns, and the reading of text files line by line within limits."""

import gzip
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import BinaryIO, cast

from headstart.errors import TaskError

__all__ = ["LONGEST_LINE", "MOST_BYTES", "MOST_ROWS", "Rows", "numbered_lines"]

Rows = Iterator[tuple[str, Mapping[str, object]]]
"""Pairs of a row's place ("data.jsonl, line 3") and its fields by name."""

LONGEST_LINE = 16 * 2**20
"""The most bytes in a line of a text file."""

MOST_BYTES = 2 * 2**30
"""The most bytes in a file, decompressed."""

MOST_ROWS = 10_000_000
"""The most rows in a file; blank lines count too."""


def numbered_lines(path: Path) -> Iterator[tuple[int, str]]:
    """The lines of a UTF-8 text file (also `.gz`), counted from 1.

    Raises `TaskError` if it cannot be read, or if it exceeds `LONGEST_LINE`, `MOST_BYTES` or `MOST_ROWS`: a small
    compressed file can hold more than any memory.
    """
    number, size = 0, 0
    try:
        with _open(path) as stream:
            while line := stream.readline(LONGEST_LINE + 1):
                number, size = number + 1, size + len(line)
                if len(line) > LONGEST_LINE:
                    raise TaskError(f"{path}, line {number}: longer than {LONGEST_LINE:,} bytes; shorten the line")
                if size > MOST_BYTES:
                    raise TaskError(f"{path}, line {number}: the file holds more than {MOST_BYTES:,} bytes; split it")
                if number > MOST_ROWS:
                    raise TaskError(f"{path} has more than {MOST_ROWS:,} lines; split it")
                yield number, line.decode("utf-8-sig" if number == 1 else "utf-8")
    except UnicodeDecodeError as error:
        raise TaskError(f"{path}, line {number}: not UTF-8 ({error.reason}); save the file as UTF-8") from error
    except (OSError, EOFError, zlib.error) as error:
        raise TaskError(f"cannot read {path}, line {number + 1}: {error}; check the file") from error


def _open(path: Path) -> BinaryIO:
    if path.suffix.lower() == ".gz":
        return cast("BinaryIO", gzip.open(path, "rb"))
    return path.open("rb")
