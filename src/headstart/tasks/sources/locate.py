"""From a path or an id to the tables of a task."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from headstart.errors import TaskError
from headstart.filenames import near_path
from headstart.registry import Registry
from headstart.tasks.sources import datasets_id
from headstart.tasks.sources.rows import Rows

__all__ = ["SETTINGS_FILE", "SOURCES", "SPLIT_NAMES", "Located", "known_splits", "locate", "settings_path"]

SOURCES: Registry[Callable[[Path], Rows]] = Registry(
    "file format",
    group="headstart.sources",
    contract="collections.abc:Callable",
    instances=True,
    members={
        "jsonl": "headstart.tasks.sources.jsonl:read",
        "csv": "headstart.tasks.sources.csv:read_csv",
        "tsv": "headstart.tasks.sources.csv:read_tsv",
        "parquet": "headstart.tasks.sources.parquet:read",
    },
)
"""By file suffix without the dot, a function from a path to its rows."""

SPLIT_NAMES: Mapping[str, str] = {"train": "train", "dev": "dev", "validation": "dev", "test": "test"}
"""The names a split may have in the data, and the one it has in a task."""

_GZIPPED = ("jsonl", "csv", "tsv")
REMOTE = "hf://"
"""What an id may begin with, so that it is none of a path."""

SETTINGS_FILE = "task.json"
"""The name of a folder's settings; those of a file `tickets.csv` are in `tickets.task.json`."""


@dataclass(frozen=True)
class Located:
    """What a source holds: tables by split (`None`: one table, not split yet), and a default name."""

    name: str
    source: str
    tables: Mapping[str | None, Rows]
    settings: Path | None = None


def settings_path(source: str | Path) -> Path | None:
    """Where the settings of a task are, if there are any; `None` for a `datasets` id."""
    path = Path(source).expanduser()
    if path.is_dir():
        return path / SETTINGS_FILE
    return path.with_name(f"{_stem_and_format(path)[0]}.{SETTINGS_FILE}") if path.exists() else None


def locate(source: str | Path) -> Located:
    """Find the tables of `source`: a file, a folder, or a `datasets` id. Raises `TaskError` when it is none of them."""
    try:
        return _locate(source, Path(source).expanduser())
    except (OSError, RuntimeError) as error:  # a RuntimeError is a "~name" without such a user
        raise TaskError(f"cannot read the task at {source}: {error}; check the path and its permissions") from error


def _locate(source: str | Path, path: Path) -> Located:
    if path.is_dir():
        return _folder(path)
    if path.exists():
        stem, format_ = _stem_and_format(path)
        if format_ is None:
            raise TaskError(f"{path} has no format that is known; save it as one that is, named {_known_names()}")
        _require_regular(path)
        return Located(stem, str(source), {None: SOURCES[format_](path)}, _settings(path))
    surely, text = str(source).startswith(REMOTE), str(source).removeprefix(REMOTE)
    an_id = isinstance(source, str) and datasets_id.is_id(text) and _stem_and_format(path)[1] is None
    if an_id and (surely or not path.parent.is_dir()):
        name = text.partition("/")[2].replace(":", "-")
        return Located(name, text, known_splits(datasets_id.read_id(text), source=text))
    remedy = "give a file, a folder, or a data set's id as owner/name or owner/name:config"
    if an_id:  # "tasks/reviews" beside a folder "tasks" is a mistyped path, more likely than an id of that owner
        remedy = f"give a file or a folder, or, for the data set of that id on the Hugging Face Hub, {REMOTE}{text}"
    raise TaskError(f"there is nothing at {source}{near_path(path)}; {remedy}")


def _folder(path: Path) -> Located:
    if any((path / name).exists() for name in datasets_id.SAVED_FILES):
        tables = known_splits(datasets_id.read_saved(path), source=str(path))
    else:
        tables = {split: SOURCES[format_](file) for split, (file, format_) in _split_files(path).items()}
    return Located(path.resolve().name, str(path), tables, _settings(path))


def _settings(source: Path) -> Path | None:
    path = settings_path(source)
    if path is None or not path.exists():
        return None
    _require_regular(path)
    return path


def _split_files(path: Path) -> dict[str, tuple[Path, str]]:
    found: dict[str, tuple[Path, str]] = {}
    for file in sorted(path.iterdir()):
        stem, format_ = _stem_and_format(file)
        if format_ is None or stem not in SPLIT_NAMES:
            continue
        split = SPLIT_NAMES[stem]
        if split in found:
            raise TaskError(
                f"{path} has two files for split '{split}', {found[split][0].name} and {file.name}; remove one"
            )
        _require_regular(file)
        found[split] = file, format_
    if not found:
        one = next((file.name for file in sorted(path.iterdir()) if _stem_and_format(file)[1] is not None), None)
        raise TaskError(
            f"{path} holds no task; it needs train, dev and test files named {_known_names('train')}"
            + (f", or give one file, such as {path / one}" if one else "")
        )
    return {split: found[split] for split in ("train", "dev", "test") if split in found}


def _require_regular(path: Path) -> None:
    """Reading a named pipe or a device may never end."""
    if not path.is_file():
        raise TaskError(f"{path} is not a regular file; replace it with the file itself")


def known_splits(tables: Mapping[str | None, Rows], *, source: str) -> dict[str | None, Rows]:
    """The tables under the names that splits have in a task. Raises `TaskError` if none has a known name."""
    if None in tables:
        return dict(tables)
    if "dev" in tables and "validation" in tables:
        raise TaskError(f"{source} has both a split 'dev' and a split 'validation'; remove one")
    known: dict[str | None, Rows] = {SPLIT_NAMES[name]: tables[name] for name in SPLIT_NAMES if name in tables}
    if not known:
        names = ", ".join(str(name) for name in tables) or "none with labels"
        raise TaskError(f"{source} has the splits {names}; name them {', '.join(SPLIT_NAMES)}")
    return known


def _stem_and_format(path: Path) -> tuple[str, str | None]:
    name = path.name
    gzipped = name.lower().endswith(".gz")
    stem, _, suffix = (name[:-3] if gzipped else name).rpartition(".")
    format_ = suffix.lower()
    if not stem or format_ not in SOURCES or (gzipped and format_ not in _GZIPPED):
        return name, None
    return stem, format_


def _known_names(stem: str = "…") -> str:
    names = [f"{stem}.{name}" for name in SOURCES] + [f"{stem}.{name}.gz" for name in _GZIPPED]
    return ", ".join(names[:-1]) + f" or {names[-1]}"
