"""How running work is shown on standard error: a bar on a terminal, a line now and then elsewhere."""

import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from rich.console import Console

from headstart.cli.output import error_console, print_line
from headstart.events import Event, Listener, Note, Progress, UnitEvent

if TYPE_CHECKING:
    from rich.progress import Progress as Bar

__all__ = ["LINE_SECONDS", "UnitCount", "listening"]

LINE_SECONDS = 10.0
"""Seconds between two lines of progress, if standard error is not a terminal."""


@contextmanager
def listening(what: str) -> Iterator[Listener]:
    """The listener that a command hands to its library call; `what` is shown until the first event."""
    screen = error_console()
    if not screen.is_terminal:
        yield _Lines()
        return
    with _bar(screen) as bar:
        row = bar.add_task(what, total=None, note="")

        def show(event: Event) -> None:
            if isinstance(event, Progress):
                bar.update(
                    row, description=event.what, completed=event.done, total=event.total, note=event.note
                )  # fmt: skip
            elif isinstance(event, Note):
                print_line(event.text, error=True)

        yield show


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


class _Lines:
    """Prints notes at once and progress every `LINE_SECONDS`, so that a log shows that the work continues."""

    def __init__(self) -> None:
        self._last = time.monotonic()

    def __call__(self, event: Event) -> None:
        if isinstance(event, Note):
            print_line(event.text, error=True)
        elif isinstance(event, Progress) and time.monotonic() - self._last >= LINE_SECONDS:
            self._last = time.monotonic()
            of = "" if event.total is None else f" of {event.total}"
            note = f"  {event.note}" if event.note else ""
            print_line(f"{event.what}: {event.done}{of}{note}", error=True)


def _bar(screen: Console) -> "Bar":
    # Here: the commands that only look at a hub show no bar.
    from rich.progress import BarColumn, TaskProgressColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as Bar

    what, note = (TextColumn(text, markup=False) for text in ("{task.description}", "{task.fields[note]}"))
    return Bar(what, BarColumn(), TaskProgressColumn(), TimeRemainingColumn(), note, console=screen, transient=True)
