"""Writing so that nothing on disk is lost or half-written: stage beside the target, fsync, rename."""

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from headstart.errors import OutputError

__all__ = ["refuse_existing", "staged_folder", "sync_tree", "write_text"]


def refuse_existing(path: Path) -> None:
    """Raise `OutputError` when `path` exists: results are never written over."""
    if path.exists() or path.is_symlink():
        raise OutputError(f"{path} already exists; choose another output or remove it first")


@contextlib.contextmanager
def staged_folder(target: Path) -> Iterator[Path]:
    """Yield an empty folder beside `target`; when the block ends well it is synced and becomes `target`.

    On any exception (a full disk, Ctrl-C) the staging folder is removed and `target` does not come to be.
    Raises `OutputError` when `target` exists or its parent cannot be written.
    """
    refuse_existing(target)
    staging: Path | None = None
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        staging = Path(tempfile.mkdtemp(prefix=f".{target.name}.", suffix=".staging", dir=target.parent))
        yield staging
        sync_tree(staging)
        staging.chmod(0o755)
        refuse_existing(target)
        staging.rename(target)
        _sync(target.parent)
    except OSError as error:
        raise OutputError(
            f"cannot write {target}: {error.strerror or error}; free some space or choose another place"
        ) from error
    finally:
        if staging is not None:
            shutil.rmtree(staging, ignore_errors=True)


def write_text(path: Path, text: str) -> None:
    """Replace the content of `path` in one step: readers see the old text or the new, never a part."""
    staging: str | None = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor, staging = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
        with os.fdopen(descriptor, "w", encoding="utf-8") as stream:
            stream.write(text)
            stream.flush()
            os.fsync(stream.fileno())
        Path(staging).chmod(0o644)
        Path(staging).replace(path)
        staging = None
    except OSError as error:
        raise OutputError(
            f"cannot write {path}: {error.strerror or error}; free some space or choose another place"
        ) from error
    finally:
        if staging is not None:
            Path(staging).unlink(missing_ok=True)


def sync_tree(folder: Path) -> None:
    """Flush every file and folder below `folder` to the disk."""
    for path in folder.rglob("*"):
        _sync(path)
    _sync(folder)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
