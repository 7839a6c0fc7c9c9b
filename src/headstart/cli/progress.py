"""How running work shows on standard error: a bar on a terminal, a line now and then elsewhere."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, TaskProgressColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bar

from headstart.cli.output import error_console, print_line
from headstart.events import Event, Listener, Note, Progress

__all__ = ["LINE_SECONDS", "counted", "listening", "phased"]

LINE_SECONDS = 10.0
"""Off a terminal, a line of progress at most this often."""


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


def counted(listener: Listener, what: str) -> Callable[..., None]:
    """`listener` for work that reports (done, total, note)."""
    return lambda done, total, note="": listener(Progress(what, done, total, note))


def phased(listener: Listener) -> Callable[[str, int, int], None]:
    """`listener` for work that reports (what, done, total)."""
    return lambda what, done, total: listener(Progress(what, done, total))


class _Lines:
    """Prints notes at once and the progress every `LINE_SECONDS`, so that a log shows that the work goes on."""

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


def _bar(screen: Console) -> Bar:
    what, note = (TextColumn(text, markup=False) for text in ("{task.description}", "{task.fields[note]}"))
    return Bar(what, BarColumn(), TaskProgressColumn(), TimeRemainingColumn(), note, console=screen, transient=True)
