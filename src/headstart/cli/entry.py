"""Where the program begins. It imports almost nothing, so that Ctrl-C is understood from the first moment on."""

import errno
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from io import TextIOWrapper
from types import FrameType
from typing import NoReturn

__all__ = ["STOPPED", "main"]

STOPPED = 130
"""Exit code of a program that Ctrl-C ended: 128 plus the number of the signal."""

SAID = "stopped; nothing was half-written"
"""What is true of every command; one that keeps something says so itself (`headstart.cli.progress`)."""

_TOLD: list[int] = []
"""The signal that a system's or a scheduler's request to end came with, if one came."""


def main() -> None:
    """Run the program; a user's mistake prints one paragraph and exits with 2, Ctrl-C with 130, SIGTERM with 143."""
    with _ends_when_told():
        _main()


def _main() -> None:
    try:
        for stream in (sys.stdout, sys.stderr):
            if isinstance(stream, TextIOWrapper):
                # A character that the terminal's encoding lacks is shown as its number instead of ending the program.
                stream.reconfigure(errors="backslashreplace")
        from headstart.cli.program import run  # here, because somebody may press Ctrl-C while this is imported

        try:
            run()
        finally:
            sys.stdout.flush()
    except (KeyboardInterrupt, SystemExit) as end:
        # typer turns Ctrl-C inside a command into an exit with this code, without a message.
        if isinstance(end, SystemExit) and end.code != STOPPED:
            raise
        _say(SAID)
        sys.exit(128 + _TOLD.pop() if _TOLD else STOPPED)
    except OSError as error:
        # The reader of a pipe is gone, or the disk that output was sent to is full.
        if error.errno not in (errno.ENOSPC, errno.EPIPE):
            raise
        with suppress(OSError, ValueError):
            # What is still to be printed has nowhere to go, and Python would report that when it exits.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        _say(f"error: cannot print the result: {error}; free some space, or send the output elsewhere")
        sys.exit(2)


@contextmanager
def _ends_when_told() -> Iterator[None]:
    """Let SIGTERM, which `kill` and schedulers send, end the program as Ctrl-C does."""

    def stop(number: int, _: FrameType | None) -> NoReturn:
        _TOLD[:] = [number]
        raise KeyboardInterrupt

    try:
        before = signal.signal(signal.SIGTERM, stop)
    except ValueError:  # only the main thread may ask for signals
        yield
        return
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _say(text: str) -> None:
    with suppress(OSError):
        print(text, file=sys.stderr, flush=True)  # noqa: T201 - rich may not be there yet
