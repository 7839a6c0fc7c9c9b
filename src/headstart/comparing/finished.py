"""Finished units of a comparison as small JSON files, so that a killed one continues."""

import hashlib
import json
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

from headstart.atomic import write_text
from headstart.backbones import Backbone
from headstart.errors import OutputError

__all__ = ["Finished"]


class Finished:
    """Results by content hash: a unit that is there is not computed again. `folder` `None`: in memory only."""

    def __init__(self, folder: Path | None, backbone: Backbone) -> None:
        self.folder = folder
        self._common = [backbone.fingerprint.weights, str(backbone.dtype), version("headstart")]
        self._known: dict[str, dict[str, Any]] = {}

    def key(self, *parts: str) -> str:
        """The hash that names a unit."""
        return hashlib.sha256(json.dumps([*self._common, *parts]).encode()).hexdigest()[:24]

    def get(self, key: str, compute: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """The unit's result, computed at most once."""
        path = self.folder / f"{key}.json" if self.folder else None
        if key not in self._known and path is not None and path.exists():
            self._known[key] = _read(path)
        if key not in self._known:
            self._known[key] = compute()
            if path is not None:
                write_text(path, json.dumps(self._known[key]))
        return self._known[key]

    def checkpoint(self, key: str) -> Path | None:
        """Where a tuning unit keeps its state until it is done."""
        return self.folder / f"{key}.checkpoint" if self.folder else None


def _read(path: Path) -> dict[str, Any]:
    try:
        unit = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise OutputError(
            f"cannot read the finished unit {path} ({error}); remove it to have it computed again"
        ) from error
    if not isinstance(unit, dict):
        raise OutputError(f"{path} is no finished unit; remove it to have it computed again")
    return unit
