"""Hugging Face `datasets`: an id "owner/name[:config]", or a folder written by `save_to_disk`."""

import re
from pathlib import Path
from typing import Any

from headstart.errors import TaskError
from headstart.extras import require
from headstart.tasks.sources.rows import Rows

__all__ = ["SAVED_FILES", "is_id", "read_id", "read_saved", "tables_of"]

SAVED_FILES = ("dataset_dict.json", "state.json")
"""A folder that holds either of these was written by `save_to_disk`."""

_ID = re.compile(r"[\w.-]+/[\w.-]+(?::[\w.-]+)?")


def is_id(text: str) -> bool:
    """Whether `text` reads "owner/name" or "owner/name:config"."""
    return _ID.fullmatch(text) is not None


def read_id(text: str) -> dict[str | None, Rows]:
    """The rows of each split of the data set with this id; downloads it if it is not in the cache.

    Raises `TaskError` if it cannot be loaded.
    """
    path, _, config = text.partition(":")
    try:
        loaded = _datasets().load_dataset(path, config or None)
    except Exception as error:  # a download, a cache or a parser can raise anything; the remedy is the same
        raise TaskError(
            f"cannot load the data set '{text}': {error}; check its name, its configuration and the network"
        ) from error
    return tables_of(loaded, source=text)


def read_saved(folder: Path) -> dict[str | None, Rows]:
    """The rows of each split that `save_to_disk` wrote into `folder`; one table has the split `None`.

    Raises `TaskError` when the folder is damaged.
    """
    try:
        loaded = _datasets().load_from_disk(str(folder))
    except Exception as error:  # a damaged folder can raise anything; the remedy is the same
        raise TaskError(f"cannot load the data set saved in {folder}: {error}; save it again") from error
    return tables_of(loaded, source=str(folder))


def _datasets() -> Any:
    require("datasets", for_what="reading a data set of the library datasets")
    import datasets  # here, so that light commands do not pay for it

    return datasets


def tables_of(loaded: Any, *, source: str) -> dict[str | None, Rows]:
    """The rows of a `Dataset` under `None`, or of each labelled split of a `DatasetDict` under its name."""
    if not isinstance(loaded, dict):
        return {None: _rows(loaded, source=source)}
    return {
        split: _rows(table, source=f"{source}, split '{split}'")
        for split, table in loaded.items()
        if not _is_unlabelled(table)
    }


def _class_names(table: Any) -> dict[str, list[str]]:
    class_label = _datasets().ClassLabel
    return {name: list(feature.names) for name, feature in table.features.items() if isinstance(feature, class_label)}


def _is_unlabelled(table: Any) -> bool:
    """Whether every class column is -1 throughout: how a benchmark hides the labels of its test split."""
    columns = _class_names(table)
    return bool(columns) and len(table) > 0 and all(table.unique(name) == [-1] for name in columns)


def _rows(table: Any, *, source: str) -> Rows:
    names = _class_names(table)
    for number, row in enumerate(table.with_format(None), start=1):
        for column, labels in names.items():
            index = row[column]
            row[column] = labels[index] if index is not None and index >= 0 else None
        yield f"{source}, row {number}", row
