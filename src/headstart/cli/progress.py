"""How running work is shown on standard error: a bar on a terminal, a line now and then elsewhere."""

import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console

from headstart.cli.output import error_console, print_line
from headstart.events import Event, Listener, Note, Stage, UnitEvent
from headstart.progress import LINE_SECONDS, Status

__all__ = ["UnitCount", "listening"]


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
                if isinstance(event, Stage) and not screen.is_terminal:
                    print_line(status.line(), error=True)

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
