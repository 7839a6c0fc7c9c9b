"""Writing files so that nothing on disk is lost or half-written: stage beside the target, fsync, rename."""

import contextlib
import ctypes
import functools
import hashlib
import os
import platform
import re
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TextIO

from headstart.errors import OutputError

__all__ = [
    "hidden_folder",
    "left_behind",
    "refuse_existing",
    "staged_file",
    "staged_folder",
    "sweep",
    "sync_folder",
    "sync_tree",
    "sync_trees",
    "write_text",
]

STAGING = ".staging"
OLD_SECONDS = 86_400
"""A hidden folder of another machine, whose processes cannot be seen here, is abandoned after this many seconds."""

MANY = 16
"""From this many folders on, flushing the whole file system at once is faster than flushing file by file."""

OWNED = re.compile(r"\..*\.(?P<machine>[0-9a-f]{8})-(?P<process>\d+)-\w+(?P<suffix>\.\w+)", re.DOTALL)


def refuse_existing(path: Path) -> None:
    """Raise `OutputError` if `path` exists: results are never overwritten."""
    if path.exists() or path.is_symlink():
        raise OutputError(f"{path} already exists; choose another output or remove it first")


@contextlib.contextmanager
def staged_folder(target: Path) -> Iterator[Path]:
    """Yield an empty folder beside `target`; if the block succeeds, the folder is synced and becomes `target`.

    On any exception (a full disk, Ctrl-C), the staging folder is removed and `target` is not created. What killed
    processes left beside `target` is removed too. Raises `OutputError` if `target` exists or its parent cannot be
    written.
    """
    with _staged(target) as staging:
        yield staging
        sync_tree(staging)
        _become(target, staging)


@contextlib.contextmanager
def staged_file(target: Path) -> Iterator[TextIO]:
    """Yield a text file in a hidden folder beside `target`; if the block succeeds, it is synced and becomes `target`.

    As `staged_folder` otherwise.
    """
    with _staged(target) as folder:
        staging = folder / "file"
        with staging.open("w", encoding="utf-8", newline="") as stream:
            yield stream
            stream.flush()
            os.fsync(stream.fileno())
        _become(target, staging)


@contextlib.contextmanager
def _staged(target: Path) -> Iterator[Path]:
    """A hidden folder beside `target`, which is gone after the block."""
    refuse_existing(target)
    folder: Path | None = None
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        sweep(target.parent)
        folder = hidden_folder(target)
        yield folder
    except OSError as error:
        raise OutputError(
            f"cannot write {target}: {error.strerror or error}; free some space or choose another place"
        ) from error
    finally:
        if folder is not None:
            shutil.rmtree(folder, ignore_errors=True)


def _become(target: Path, staging: Path) -> None:
    """Rename what was staged to `target`, which must still be free."""
    refuse_existing(target)
    staging.rename(target)
    sync_folder(target.parent)


def hidden_folder(target: Path, suffix: str = STAGING) -> Path:
    """Make an empty hidden folder beside `target` whose name says which process it belongs to."""
    # The beginning of the name is enough, and file systems limit names to 255 bytes.
    prefix = f".{target.name[:40]}.{_machine()}-{os.getpid()}-"
    folder = Path(tempfile.mkdtemp(prefix=prefix, suffix=suffix, dir=target.parent))
    folder.chmod(0o755)
    return folder


def left_behind(folder: Path, suffix: str = STAGING) -> bool:
    """Whether a hidden folder is one of `hidden_folder`, and its process has ended or it is a day old."""
    made = OWNED.fullmatch(folder.name)
    if made is None or made["suffix"] != suffix:
        return False
    try:
        old = folder.lstat().st_mtime < time.time() - OLD_SECONDS
    except OSError:
        return False
    return old or (made["machine"] == _machine() and not _runs(int(made["process"])))


def sweep(folder: Path) -> None:
    """Delete the staging folders in `folder` that killed processes left."""
    with contextlib.suppress(OSError), os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.endswith(STAGING) and left_behind(folder / entry.name):
                shutil.rmtree(folder / entry.name, ignore_errors=True)


def write_text(path: Path, text: str) -> None:
    """Replace the content of `path` in one step: readers see the old text or the new one, never a part."""
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


def sync_trees(folders: Sequence[Path]) -> None:
    """Flush every file and folder below each of `folders`, which are on one file system, to the disk."""
    if len(folders) >= MANY and _sync_file_system(folders[0]):
        return
    for folder in folders:
        sync_tree(folder)


def sync_tree(folder: Path) -> None:
    """Flush every file and folder below `folder` to the disk."""
    for path in folder.rglob("*"):
        sync_folder(path)
    sync_folder(folder)


def sync_folder(path: Path) -> None:
    """Flush one folder (its list of names) or one file to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _sync_file_system(path: Path) -> bool:
    """Flush the file system that holds `path`, if the system can flush a single one; return whether it did."""
    if not sys.platform.startswith("linux"):
        return False
    descriptor = os.open(path, os.O_RDONLY)
    try:
        return bool(ctypes.CDLL(None, use_errno=True).syncfs(descriptor) == 0)
    except AttributeError:
        return False
    finally:
        os.close(descriptor)


def _runs(process: int) -> bool:
    if os.name == "nt":  # where asking would terminate the process
        return True
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True


@functools.cache
def _machine() -> str:
    """A key that is equal for processes that see each other's numbers: same machine, same boot, same container."""
    parts = [platform.node()]
    with contextlib.suppress(OSError):
        parts.append(Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii"))
        parts.append(os.readlink("/proc/self/ns/pid"))  # noqa: PTH115 -- the link's text, which is no path
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:8]
