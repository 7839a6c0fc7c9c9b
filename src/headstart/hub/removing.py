"""Removing modules from a hub's folder, in steps that each leave the hub whole, so that a killed removal can continue.

A removal is a hidden folder that holds a list of the names to be removed and the folders that were moved into it. A
module that is on such a list and no longer in the hub was removed, not lost.
"""

import contextlib
import json
import os
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

from headstart.atomic import hidden_folder, left_behind, sync_folder
from headstart.errors import HubError

__all__ = ["leaving", "remove", "sweep_removals"]

REMOVED = ".removed"
LIST = ".names.json"
"""Beside the folders of modules, whose names never begin with a dot."""


def remove(hub: Path, names: Sequence[str], *, forget: Callable[[], None]) -> None:
    """Delete the folders of `names`, and let `forget` delete their rows; raises `HubError` if that fails."""
    hidden, known = _begin(hub, names), False
    try:
        for name in names:
            _take_out(hub, name, hidden)
        if hidden is not None:
            _finish(hidden, known=False)  # on a full disk, the catalogue can only be written now
        forget()
        known = True
    finally:
        if hidden is not None:
            _finish(hidden, known=known)
    sweep_removals(hub)


def _begin(hub: Path, names: Sequence[str]) -> Path | None:
    """Note that `names` are to be removed; `None` if nothing can be written, as on a full disk."""
    hidden = None
    try:
        hidden = hidden_folder(hub / "modules", REMOVED)
        (hidden / LIST).write_text(json.dumps(names), encoding="utf-8")
        sync_folder(hidden / LIST)
    except OSError:
        if hidden is not None:
            shutil.rmtree(hidden, ignore_errors=True)
        return None
    return hidden


def _take_out(hub: Path, name: str, hidden: Path | None) -> None:
    """Move module `name` out of sight in one step, or delete it where it is; raises `HubError`."""
    path = hub / name
    try:
        if path.is_symlink() or path.is_file():
            path.unlink()
        elif hidden is not None:
            path.rename(hidden / name)
        elif path.exists():
            shutil.rmtree(path)
    except FileNotFoundError:
        return  # somebody else removed it
    except OSError as error:
        raise HubError(f"cannot delete {path}: {error.strerror}; check its permissions") from error


def leaving(hub: Path) -> set[str]:
    """The names on the lists of removals that have begun."""
    return {name for hidden in _removals(hub) for name in _listed(hidden)}


def _finish(hidden: Path, *, known: bool) -> None:
    """Delete what was moved into a removal, and its list unless the catalogue does not `know` of it yet."""
    for path in hidden.iterdir():
        if path.name != LIST:
            shutil.rmtree(path, ignore_errors=True)
    if known:
        shutil.rmtree(hidden, ignore_errors=True)


def sweep_removals(hub: Path) -> None:
    """Delete what killed removals left, except the lists of unfinished ones."""
    for hidden in _removals(hub):
        if left_behind(hidden, REMOVED):
            with contextlib.suppress(OSError):
                _finish(hidden, known=not any(os.path.lexists(hub / name) for name in _listed(hidden)))


def _removals(hub: Path) -> list[Path]:
    with contextlib.suppress(OSError), os.scandir(hub) as entries:
        return [hub / e.name for e in entries if e.name.startswith(".") and e.name.endswith(REMOVED)]
    return []


def _listed(hidden: Path) -> list[str]:
    try:
        names = json.loads((hidden / LIST).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return []
    return [name for name in names if isinstance(name, str)] if isinstance(names, list) else []
