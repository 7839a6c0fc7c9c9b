"""The hub's folder on disk: which modules lie in it, whether they changed, and how one is copied in."""

import json
import os
import shutil
import tempfile
import time
from pathlib import Path

from headstart.errors import HubError
from headstart.formats import (
    CONFIG_FILE,
    HEAD_FILE,
    INTERFACE_FILE,
    WEIGHTS_FILE,
    WEIGHTS_FILES,
    read_opendelta,
    regular_file,
    safetensors_bytes,
)
from headstart.formats.adapterhub import ADAPTERHUB_WEIGHTS
from headstart.formats.opendelta import OPENDELTA_CONFIG, OPENDELTA_WEIGHTS
from headstart.records import CARD_FILE

__all__ = ["KEPT", "check_name", "copy_module", "is_hub", "stamp", "stamps", "sweep", "take_out"]

WATCHED = (CONFIG_FILE, *WEIGHTS_FILES, HEAD_FILE, CARD_FILE)
REMOVED = ".removed"
KEPT = (*WATCHED, INTERFACE_FILE, "README.md", "LICENSE", "LICENSE.md", "LICENSE.txt")
"""The files of a module that a hub keeps, and takes from a remote one."""

MAX_NAME_BYTES = 200
"""Staging puts a prefix and a suffix round the name, and file systems end at 255 bytes."""


def check_name(name: str) -> None:
    """Raise `HubError` unless `name` can be a module's folder on every file system."""
    if (
        not name
        or name != name.strip()
        or name.startswith(".")
        or set(name) & set('/\\:*?"<>|')
        or not name.isprintable()
    ):
        raise HubError(
            f"{name!r} cannot be a module's name: it must not be empty, begin with a dot, begin or end with a space, "
            'or hold one of / \\ : * ? " < > |; choose another name'
        )
    if len(name.encode(errors="surrogatepass")) > MAX_NAME_BYTES:
        raise HubError(f"the module name '{name[:40]}…' is longer than {MAX_NAME_BYTES} bytes; choose a shorter one")


def stamps(hub: Path) -> dict[str, str]:
    """Every module folder's stamp by name: times and sizes, without opening a file.

    Equal stamps mean that nothing was written since. Raises `HubError` when the hub cannot be listed.
    """
    try:
        with os.scandir(hub) as entries:
            # A name that is no valid text cannot be shown, typed or catalogued.
            folders = sorted(
                entry.name
                for entry in entries
                if not entry.name.startswith(".") and entry.name.isprintable() and entry.is_dir()
            )
    except OSError as error:
        raise HubError(f"cannot list {hub}: {error.strerror}; check the path and its permissions") from error
    return {name: stamp(hub / name) for name in folders}


def stamp(folder: Path) -> str:
    """Times and sizes of the folder and of the files that make the module; "-" for a file that is not there."""
    parts = []
    for name in ("", *WATCHED, OPENDELTA_CONFIG, OPENDELTA_WEIGHTS):
        try:
            status = os.stat(f"{folder}/{name}")  # noqa: PTH116 -- thousands of calls
            parts.append(f"{status.st_mtime_ns}+{status.st_size if name else 0}")
        except OSError:
            parts.append("-")
    return " ".join(parts)


def is_hub(path: Path) -> bool:
    """Whether the folder may be a hub: empty, or one of its folders holds a module's configuration."""
    return not any(path.iterdir()) or any((path / name / CONFIG_FILE).exists() for name in stamps(path))


def copy_module(source: Path, target: Path) -> None:
    """Copy the files that make a module from `source` into the folder `target`, and nothing else.

    A module of OpenDelta becomes one of PEFT or AdapterHub, so that its two files, which have the names that those of
    a whole model have, stay behind.
    """
    for name in KEPT:
        path = regular_file(source, name)
        if path is not None:
            shutil.copyfile(path, target / name)
    plain = read_opendelta(source)
    if plain is not None:
        (target / CONFIG_FILE).write_text(json.dumps(plain.config, indent=1, sort_keys=True) + "\n", encoding="utf-8")
        weights = WEIGHTS_FILE if "peft_type" in plain.config else ADAPTERHUB_WEIGHTS[0]
        (target / weights).write_bytes(safetensors_bytes(plain.tensors))


def take_out(hub: Path, name: str) -> Path:
    """Move module `name` out of sight in one step; return the hidden folder that then holds it."""
    hidden = Path(tempfile.mkdtemp(prefix=f".{name}.", suffix=REMOVED, dir=hub))
    (hub / name).rename(hidden / name)
    return hidden


def sweep(hub: Path) -> None:
    """Delete what killed runs left: hidden folders of a day or more that were staged or taken out."""
    old = time.time() - 86_400
    for path in hub.iterdir():
        if path.name.startswith(".") and path.suffix in (".staging", REMOVED) and path.lstat().st_mtime < old:
            shutil.rmtree(path, ignore_errors=True)
