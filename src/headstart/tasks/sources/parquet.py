"""Parquet, read batch by batch."""

from pathlib import Path

from headstart.errors import TaskError
from headstart.tasks.sources.rows import Rows

__all__ = ["read"]


def read(path: Path) -> Rows:
    """The rows of a Parquet file. Raises `TaskError` when it is not one."""
    import pyarrow as pa  # here, so that light commands do not pay for it
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path) as file:
            number = 0
            for batch in file.iter_batches():
                for row in batch.to_pylist():
                    number += 1
                    yield f"{path}, row {number}", row
    except (OSError, pa.ArrowException) as error:
        raise TaskError(f"cannot read {path} as Parquet: {error}; write the file again") from error
