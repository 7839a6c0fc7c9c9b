"""What running work reports: typed events that the terminal, `--json` and a web page all consume."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

__all__ = ["Event", "LeftOut", "Listener", "Note", "Progress", "Saved", "Stage", "UnitEvent"]


@dataclass(frozen=True)
class Progress:
    """How far a piece of work has come: `done` of `total` (`None`: not yet known); `what` and `note` are for people."""

    what: str
    done: int
    total: int | None = None
    note: str = ""


@dataclass(frozen=True)
class Stage:
    """A part of a longer piece of work begins: the `number`th of `of`; `what` is for people."""

    what: str
    number: int
    of: int


@dataclass(frozen=True)
class Note:
    """A line for the log: something that the user would want to know afterwards."""

    text: str


@dataclass(frozen=True)
class LeftOut:
    """A module of the hub takes no part, for this reason; results say so too, once there are any."""

    name: str
    reason: str


@dataclass(frozen=True)
class UnitEvent:
    """What became of one unit of work: its type ("tune"), key, label for people, state and, once it ended, seconds.

    `left`: how many units of the same run are still to be computed, this one included while it is; `None` while the run
    is being planned.
    """

    type: str
    key: str
    label: str
    state: Literal["started", "computed", "reused", "failed"]
    seconds: float | None = None
    left: int | None = None


@dataclass(frozen=True)
class Saved:
    """Work that is not finished was written to the disk: a run that is stopped continues `what` from `step`."""

    what: str
    step: int


Event = Progress | Stage | Note | LeftOut | UnitEvent | Saved

Listener = Callable[[Event], None]
"""Called with every event, in the thread that does the work; it must not raise."""
