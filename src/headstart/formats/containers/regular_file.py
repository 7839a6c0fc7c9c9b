"""A file of a module folder before it is opened: it must be regular, in its folder, and not too large."""

import stat
from pathlib import Path

from headstart.errors import ModuleError
from headstart.filenames import HEAD_FILE, OPENDELTA_WEIGHTS, WEIGHTS_FILES
from headstart.formats.containers.safetensors_file import MAX_BYTES

__all__ = ["LARGEST_TEXT", "regular_file"]

LARGEST_TEXT = 16 * 2**20
"""The most bytes of a module's configuration, card, README or licence."""


def regular_file(folder: Path, name: str) -> Path | None:
    """The path of file `name` in `folder`, or `None` if there is none.

    Raises `ModuleError` if it is not a regular file, is a link that leads out of the folder, or is too large.
    """
    path = folder / name
    try:
        status = path.lstat()
        if stat.S_ISLNK(status.st_mode):
            if not path.resolve(strict=True).is_relative_to(folder.resolve(strict=True)):
                raise ModuleError(f"{path} is a link out of its folder; copy the folder with `cp -rL`")
            status = path.stat()
    except (FileNotFoundError, NotADirectoryError) as error:
        if path.is_symlink():
            raise ModuleError(f"{path} is a link that leads nowhere; copy the file itself") from error
        return None
    except (OSError, RuntimeError, ValueError) as error:
        raise ModuleError(f"cannot read {path}: {error}; check the path and its permissions") from error
    if not stat.S_ISREG(status.st_mode):
        raise ModuleError(f"{path} is not a regular file; replace it with the file itself")
    most = MAX_BYTES if name in (*WEIGHTS_FILES, HEAD_FILE, OPENDELTA_WEIGHTS) else LARGEST_TEXT
    if status.st_size > most:
        raise ModuleError(f"{path} has {status.st_size:,} bytes, and at most {most:,} are read; use a smaller one")
    return path
