"""What running work reports: typed events that the terminal, `--json` and a web page all consume."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

__all__ = ["Event", "Listener", "Note", "Progress", "Saved", "UnitEvent"]


@dataclass(frozen=True)
class Progress:
    """How far a piece of work has come: `done` of `total` (`None`: not yet known); `what` and `note` are for people."""

    what: str
    done: int
    total: int | None = None
    note: str = ""


@dataclass(frozen=True)
class Note:
    """A line for the log: something that the user would want to know afterwards."""

    text: str


@dataclass(frozen=True)
class UnitEvent:
    """What became of one unit of work: its type ("tune"), key, label for people, state and, once it ended, seconds."""

    type: str
    key: str
    label: str
    state: Literal["started", "computed", "reused", "failed"]
    seconds: float | None = None


@dataclass(frozen=True)
class Saved:
    """Work that is not finished was written to the disk: a run that is stopped continues `what` from `step`."""

    what: str
    step: int


Event = Progress | Note | UnitEvent | Saved

Listener = Callable[[Event], None]
"""Called with every event, in the thread that does the work; it must not raise."""
