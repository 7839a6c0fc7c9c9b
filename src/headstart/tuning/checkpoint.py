"""The state of a lane on disk, from which a killed run continues as if nothing had happened."""

import contextlib
import os
import secrets
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from headstart.errors import OutputError, SettingError

__all__ = ["read_checkpoint", "write_checkpoint"]

ABANDONED = 3600.0
"""A half-written file older than this many seconds was left by a process that was killed."""


def write_checkpoint(path: Path, state: Mapping[str, Any], *, identity: str) -> None:
    """Write the state, which is tensors and plain values, to a file with a name of its own, then rename it to `path`.

    Two runs that share a checkpoint by mistake do not disturb one another: each writes whole files. Raises
    `OutputError` when the file cannot be written.
    """
    staging = path.with_name(f".{path.name}.{secrets.token_hex(4)}.writing")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        torch.save({"run": identity, **state}, staging)
        os.replace(staging, path)  # noqa: PTH105 - atomic on every system
    except (OSError, RuntimeError) as error:
        raise OutputError(f"cannot write {path}: {error}; free some space and run the command again") from error
    finally:
        with contextlib.suppress(OSError):
            staging.unlink(missing_ok=True)


def read_checkpoint(path: Path, *, identity: str) -> dict[str, Any]:
    """What `write_checkpoint` wrote, with all tensors on the CPU, wherever they were when it was written.

    Raises `OutputError` for a file that is not a checkpoint, `SettingError` for the checkpoint of another run.
    """
    _remove_abandoned(path)
    try:
        state: dict[str, Any] = torch.load(path, weights_only=True, map_location="cpu")
        run = state.pop("run")
    except Exception as error:
        raise OutputError(f"{path} cannot be read as a checkpoint; remove it to start over") from error
    if run != identity:
        raise SettingError(
            f"{path} is the checkpoint of a run with other settings, data or backbone; "
            "remove it to start over, or repeat the settings to continue (one of an older version of Headstart "
            "cannot be continued)"
        )
    return state


def _remove_abandoned(path: Path) -> None:
    with contextlib.suppress(OSError):
        for staging in path.parent.glob(f".{path.name}.*.writing"):
            if time.time() - staging.stat().st_mtime > ABANDONED:
                staging.unlink()
