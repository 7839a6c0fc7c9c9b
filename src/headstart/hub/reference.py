"""References to modules on a remote hub, as the user types them: `hf://owner/name[@revision]`."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import TypeGuard

from headstart.errors import HubError

__all__ = ["RemoteModule", "is_reference", "parse_reference"]

SCHEME = "hf://"
PART = r"\w(?:[\w.-]{0,94}\w)?"
REFERENCE = re.compile(rf"{SCHEME}({PART}/{PART})(?:@([\w./+-]+))?", re.ASCII)


@dataclass(frozen=True)
class RemoteModule:
    """A repository that holds one module, at a branch, tag or commit; `None` is the default branch.

    >>> str(RemoteModule("ann/rte", "v2"))
    'hf://ann/rte@v2'
    """

    repo: str
    revision: str | None = None

    @property
    def name(self) -> str:
        """The module's default name in a local hub: the last part of the repository's name."""
        return self.repo.rpartition("/")[2]

    def __str__(self) -> str:
        return f"{SCHEME}{self.repo}" + (f"@{self.revision}" if self.revision else "")


def is_reference(source: str | Path) -> TypeGuard[str]:
    """Whether `source` names a remote module, well-formed or not, rather than a folder.

    >>> is_reference("hf://ann/rte"), is_reference("modules/rte")
    (True, False)
    """
    return isinstance(source, str) and source.startswith(SCHEME)


def parse_reference(text: str) -> RemoteModule:
    """The module that `text` refers to. Raises `HubError` when it is malformed.

    >>> parse_reference("hf://ann/rte@v2")
    RemoteModule(repo='ann/rte', revision='v2')
    """
    match = REFERENCE.fullmatch(text)
    if match is None or ".." in text or "--" in match[1]:
        raise HubError(
            f"'{text}' is not a reference to a remote module; write {SCHEME}owner/name or {SCHEME}owner/name@revision"
        )
    return RemoteModule(match[1], match[2])
