"""How running work is shown on standard error: a bar on a terminal, a line now and then elsewhere."""

import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console

from headstart.cli.output import duration_text, error_console, print_line
from headstart.events import Event, Listener, Note, Progress, Saved, Stage, UnitEvent

__all__ = ["LINE_SECONDS", "Status", "UnitCount", "listening"]

LINE_SECONDS = 10.0
"""Seconds between two lines of progress, if standard error is not a terminal."""


@contextmanager
def listening(what: str, *, kept: str = "") -> Iterator[Listener]:
    """The listener that a command hands to its library call.

    `what` is shown until the first event. If the user stops the command, a line says what of the work is kept: `kept`,
    or what the events told.
    """
    status = Status(what)
    try:
        with _shown(status) as show:
            yield show
    except KeyboardInterrupt:
        print_line(kept or status.kept(), error=True)
        raise


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
        """Which stage this is, and how many units of it are done: "stage 2 of 3, 12 of 40 units done"; "" if none.

        One run of units of a stage may follow another, so that more are to be done than was known before. `named`:
        with what the stage is, unless that is shown anyway.
        """
        what = f" ({self.stage.what})" if self.stage and named and self.stage.what != self.what else ""
        said = [f"stage {self.stage.number} of {self.stage.of}{what}"] if self.stage else []
        if (known := self._done + self._left) > 1:
            said.append(f"{self._done} of {known} units done")
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


@contextmanager
def _shown(status: Status) -> Iterator[Listener]:
    screen = error_console()
    with _bar(screen, status) if screen.is_terminal else _lines(status) as refresh:

        def show(event: Event) -> None:
            if isinstance(event, Note):
                print_line(event.text, error=True)
            else:
                status.take(event)
                refresh()

        yield show


@contextmanager
def _lines(status: Status) -> Iterator[Callable[[], None]]:
    """A line every `LINE_SECONDS`, however long a single step takes, so that a log shows that the work continues."""
    ended = threading.Event()

    def say() -> None:
        while not ended.wait(LINE_SECONDS):
            print_line(status.line(), error=True)

    teller = threading.Thread(target=say, daemon=True)
    teller.start()
    try:
        yield lambda: None
    finally:
        ended.set()
        teller.join()


@contextmanager
def _bar(screen: Console, status: Status) -> Iterator[Callable[[], None]]:
    """A bar with what is being done, which moves back and forth while nobody knows how much there is."""
    # Here: the commands that only look at a hub show no bar.
    from rich.progress import BarColumn, TaskProgressColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
    from rich.progress import Progress as Bar

    place, what, note = (
        TextColumn(text, markup=False) for text in ("{task.fields[place]}", "{task.description}", "{task.fields[note]}")
    )
    columns = (place, what, BarColumn(), TaskProgressColumn(), TimeElapsedColumn(), TimeRemainingColumn(), note)
    with Bar(*columns, console=screen, transient=True) as bar:
        row = bar.add_task(status.what, total=None, note="", place="")

        def refresh() -> None:
            if bar.tasks[0].description != status.what:
                bar.reset(row)
            bar.update(
                row, description=status.what, completed=status.done, total=status.total, note=status.note,
                place=status.place(),
            )  # fmt: skip

        yield refresh


class UnitCount:
    """Counts computed and reused units, each once, and passes every event on."""

    def __init__(self, listener: Listener) -> None:
        self._listener = listener
        self._seen: dict[str, UnitEvent] = {}

    def __call__(self, event: Event) -> None:
        """Take an event."""
        if isinstance(event, UnitEvent) and event.state in ("computed", "reused"):
            self._seen.setdefault(event.key, event)
        self._listener(event)

    def to_json(self) -> dict[str, dict[str, int]]:
        """`{"computed": {TYPE: n}, "reused": {TYPE: n}}`."""
        return {state: dict(self._count(state)) for state in ("computed", "reused")}

    def say(self) -> None:
        """Say on standard error what was reused, if anything was."""
        found = self._count("reused")
        if found:
            parts = [f"{count} {kind} unit{'s' * (count > 1)}" for kind, count in found.items()]
            print_line(f"Reused {', '.join(parts)} from the store (see `headstart store`).", error=True)

    def _count(self, state: str) -> Counter[str]:
        return Counter(event.type for event in self._seen.values() if event.state == state)
