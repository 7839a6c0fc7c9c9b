"""What running work is doing, as its events tell it, in one line; and a listener that prints such lines."""

import math
import sys
import time
from typing import TextIO

from headstart.events import Event, Note, Progress, Saved, Stage, UnitEvent
from headstart.showing import duration_text

__all__ = ["LINE_SECONDS", "ProgressPrinter", "Status"]

LINE_SECONDS = 10.0
"""Seconds between two lines of progress, where there is no bar."""

LONG = 60.0
"""From so many seconds on, a line says how long the work has taken in all."""


class Status:
    """What is going on, as the last events told it."""

    def __init__(self, what: str) -> None:
        self.what, self.done, self.note = what, 0, ""
        self.total: int | None = None
        self.stage: Stage | None = None
        self._left = self._done = 0
        self._running: dict[str, str] = {}
        self._finished: set[str] = set()
        self._saved: dict[str, int] = {}
        self._began, self._began_at = time.monotonic(), 0
        self._first = self._began

    def take(self, event: Event) -> None:
        """Take an event."""
        match event:
            case Stage():
                self.stage, self._left, self._done = event, 0, 0
                self._begin(event.what, 0)
            case Progress():
                self._begin(event.what, event.done)
                self.done, self.total, self.note = event.done, event.total, event.note
            case UnitEvent(state="started"):
                self._count(event.left)
                self._running[event.key] = event.label
                more = f" and {len(self._running) - 1} more" if len(self._running) > 1 else ""
                self._begin(f"{event.label}{more}", 0)
            case UnitEvent():
                self._running.pop(event.key, None)
                self._count(event.left)
                if event.state == "computed":
                    self._finished.add(event.key)
                    self._saved = {what: step for what, step in self._saved.items() if not event.label.endswith(what)}
            case Saved() if event.step:
                self._saved[event.what] = event.step

    def place(self, *, named: bool = False) -> str:
        """Which stage this is, and how many units of it are done: "stage 2 of 3, 12 of at least 40 units done"; or "".

        At least, because another run of units of the stage may follow. `named`: with what the stage is, unless that is
        shown anyway, and how long all stages have taken by now.
        """
        what = f" ({self.stage.what})" if self.stage and named and self.stage.what != self.what else ""
        said = [f"stage {self.stage.number} of {self.stage.of}{what}"] if self.stage else []
        if (known := self._done + self._left) > 1:
            said.append(f"{self._done} of {'' if self.stage is None else 'at least '}{known} units done")
        if named and self.stage and (seconds := time.monotonic() - self._first) >= LONG:
            said.append(f"{int(seconds) // 60} min {int(seconds) % 60} s in all so far")
        return ", ".join(said)

    def line(self) -> str:
        """Everything in one line: where it is, how far, how fast, and how long the rest takes if that is known."""
        where = f"[{place}] " if (place := self.place(named=True)) else ""
        return where + self._current()

    def _current(self) -> str:
        """What is being done now."""
        seconds = time.monotonic() - self._began
        if self.total is None:
            return self.what if seconds < 1 else f"{self.what}: {duration_text(seconds)} so far"
        share = f" ({self.done / self.total:.0%})" if self.total else ""
        said = [f"{self.done:,} of {self.total:,}{share}"]
        made = self.done - self._began_at
        if made > 0 and seconds > 0:
            said.append(f"{made / seconds:.3g} a second")
            if self.done < self.total:
                said.append(f"about {duration_text(max(1.0, (self.total - self.done) * seconds / made))} left")
        return f"{self.what}: {', '.join(said)}" + (f"; {self.note}" if self.note else "")

    def kept(self) -> str:
        """What a command that is stopped now leaves in the store, and what it will compute again."""
        said = []
        if count := len(self._finished):
            said.append(f"{count} finished unit{'s are' if count > 1 else ' is'} in the store")
        if self._saved:
            what, step = next(iter(self._saved.items()))
            others = f", and {len(self._saved) - 1} more in the same way" if len(self._saved) > 1 else ""
            said.append(f"tuning {what} continues from step {step}{others}")
        if not said:
            return "nothing was finished yet, so the same command starts over"
        return f"{'; '.join(said)}; the same command computes only the rest"

    def _count(self, left: int | None) -> None:
        """Know how many units of a run are left; where there are more than before, another run has begun."""
        if left is None:
            return
        self._done += max(0, self._left - left)
        self._left = left

    def _begin(self, what: str, done: int) -> None:
        """Measure from here if this is new work."""
        if what != self.what or done < self.done:
            self._began, self._began_at = time.monotonic(), done
            self.what, self.done, self.total, self.note = what, done, None, ""


class ProgressPrinter:
    """A listener that prints notes, stages, and a line of progress now and then: what `progress=` takes in Python.

    One is for one call. Lines come with events, so that a long step may be silent for longer.

    Args:
        seconds: between two lines of progress.
        file: where they are printed; `None` is standard error.

    >>> ranking = hs.rank(task, "my-hub", indicators="loss", progress=hs.ProgressPrinter())
    """

    def __init__(self, *, seconds: float = LINE_SECONDS, file: TextIO | None = None) -> None:
        self._seconds, self._file = seconds, file
        self._status, self._said = Status("working"), -math.inf

    def __call__(self, event: Event) -> None:
        """Take an event."""
        if isinstance(event, Note):
            self._print(event.text)
            return
        self._status.take(event)
        if isinstance(event, Stage) or time.monotonic() - self._said >= self._seconds:
            self._said = time.monotonic()
            self._print(self._status.line())

    def _print(self, text: str) -> None:
        print(text, file=self._file or sys.stderr, flush=True)
