"""The hub's folder on disk: which modules it holds, and whether they changed since they were read."""

import os
from collections.abc import Iterator, Mapping
from pathlib import Path

from headstart.errors import HubError
from headstart.filenames import (
    CARD_FILE,
    CONFIG_FILE,
    EARLY_FILE,
    HEAD_FILE,
    HISTORY_FILE,
    INTERFACE_FILE,
    OPENDELTA_CONFIG,
    OPENDELTA_WEIGHTS,
    WEIGHTS_FILES,
)

__all__ = ["KEPT", "is_hub", "is_module", "modules_in", "stamp", "stamps"]

WATCHED = (CONFIG_FILE, *WEIGHTS_FILES, HEAD_FILE, CARD_FILE)
KEPT = (*WATCHED, HISTORY_FILE, EARLY_FILE, INTERFACE_FILE, "README.md", "LICENSE", "LICENSE.md", "LICENSE.txt")
"""The files of a module that a hub keeps, and downloads from a remote one."""

STAMPED = ("", *WATCHED, OPENDELTA_CONFIG, OPENDELTA_WEIGHTS)
ABSENT = "-"

DEEPEST = 3
"""How far below a folder its modules may lie, such as in runs/paws/checkpoint-500."""


def stamps(hub: Path, known: Mapping[str, str]) -> dict[str, str]:
    """Every module folder's stamp by name: times and sizes, without opening a file.

    Equal stamps mean that nothing was written since the `known` ones were taken. A link that leads to no folder has a
    stamp too, so that it is named as a problem. Raises `HubError` if the hub cannot be listed.
    """
    try:
        with os.scandir(hub) as entries:
            # A name that is not valid text cannot be shown, typed or catalogued.
            folders = sorted(
                entry.name
                for entry in entries
                if not entry.name.startswith(".") and entry.name.isprintable() and _may_be_module(entry)
            )
    except OSError as error:
        raise HubError(f"cannot list {hub}: {error.strerror}; check the path and its permissions") from error
    root = str(hub)
    return {name: stamp(f"{root}/{name}", known.get(name, "")) for name in folders}


def stamp(folder: Path | str, known: str = "") -> str:
    """Times and sizes of the folder and of the files that make the module; "-" for a file that is not there.

    A file that was missing when the `known` stamp was taken is looked for only if the folder's own time changed.
    """
    before = known.split(" ")
    found = [_part(folder, "")]
    unchanged = len(before) == len(STAMPED) and found[0] == before[0] != ABSENT
    for place, name in enumerate(STAMPED[1:], start=1):
        found.append(ABSENT if unchanged and before[place] == ABSENT else _part(folder, name))
    return " ".join(found)


def is_hub(path: Path) -> bool:
    """Whether the folder may be a hub: empty, or one of its folders holds a module's configuration."""
    return not any(path.iterdir()) or any(os.path.lexists(path / name / CONFIG_FILE) for name in stamps(path, {}))


def is_module(path: Path) -> bool:
    """Whether the folder looks like a module's: one that PEFT or AdapterHub saved, or OpenDelta."""
    opendelta = (OPENDELTA_CONFIG, OPENDELTA_WEIGHTS)
    return (path / CONFIG_FILE).exists() or all((path / name).exists() for name in opendelta)


def modules_in(folder: Path, *, depth: int = DEEPEST) -> list[Path]:
    """The modules that a folder holds, at most `depth` levels below it; else the folder itself, whatever it is.

    Folders whose names begin with a dot are not looked into; a module that links lead to several times is there once.
    """
    found: dict[str, Path] = {}
    for module in _below(folder, depth):
        found.setdefault(os.path.realpath(module), module)
    return list(found.values()) or [folder]


def _below(folder: Path, depth: int) -> Iterator[Path]:
    try:
        if is_module(folder):
            yield folder
            return
        inside = sorted(folder.iterdir()) if depth and folder.is_dir() else []
    except OSError:
        yield folder  # reading it as a module says why it cannot be read
        return
    for inner in inside:
        if not inner.name.startswith("."):
            yield from _below(inner, depth - 1)


def _part(folder: Path | str, name: str) -> str:
    try:
        status = os.stat(f"{folder}/{name}")  # noqa: PTH116 -- thousands of calls
    except (OSError, ValueError):
        return ABSENT
    return f"{status.st_mtime_ns}+{status.st_size if name else 0}"


def _may_be_module(entry: os.DirEntry[str]) -> bool:
    """Whether the entry is a folder, or a link to one or to nothing."""
    try:
        return entry.is_dir() or (entry.is_symlink() and not entry.is_file())
    except OSError:
        return True  # a circular link
