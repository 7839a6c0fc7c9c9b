"""How many lanes share a pass: found by timing the work itself, never guessed."""

from __future__ import annotations

from headstart.errors import SettingError

__all__ = ["Width"]

FIRST = 8
"""Lanes that are under way while the width of a pass is being found, so that all of them stay in step."""

TURNS = 3
"""Turns that one width is timed for; the first of them warms up and does not count."""

WORTH = 1.05
"""By how much twice as many lanes must be faster to be kept."""


class Width:
    """The number of lanes that share a pass now.

    It begins at 1 and is doubled as long as that makes the tokens of a turn at least 5 % faster; when it does not, the
    former width stays. When the device's memory runs out, the width is halved and stays. A turn is a real update of
    every lane, so nothing is computed only to be timed.

    Args:
        fixed: the width to begin with and to keep, `None` to find it.
    """

    def __init__(self, fixed: int | None = None) -> None:
        if fixed is not None and fixed < 1:
            raise SettingError(f"most={fixed} lanes a pass make no pass; give 1 or more, or leave it out")
        self.now = fixed or 1
        self.settled = fixed is not None
        self._speeds: list[float] = []
        self._before = 0.0

    @property
    def places(self) -> int:
        """How many lanes are under way at once; more than share a pass while it is not settled how many do."""
        return self.now if self.settled else max(FIRST, self.now)

    def saw(self, tokens: int, seconds: float, *, lanes: int) -> None:
        """Take in a turn of `lanes` lanes in passes of the present width."""
        if self.settled:
            return
        self._speeds.append(tokens / seconds)
        if len(self._speeds) < TURNS:
            return
        speed = max(self._speeds[1:])  # what else the machine does can only slow a turn down
        self._speeds = []
        if speed < WORTH * self._before:
            self.now, self.settled = self.now // 2, True
        elif self.now >= lanes:
            self.settled = True
        else:
            self.now, self._before = self.now * 2, speed

    def ran_out_of_memory(self) -> None:
        """Halve the width. Raises `SettingError` when a single lane does not fit."""
        if self.now == 1:
            raise SettingError("a single lane does not fit into the device's memory; lower batch_size or max_input")
        self.now, self.settled = self.now // 2, True
