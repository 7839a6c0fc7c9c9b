"""How many lanes share a pass: found by timing the work itself, never guessed."""

from __future__ import annotations

from headstart.errors import SettingError

__all__ = ["Width"]

FIRST = 8
"""Lanes that are under way while the width of a pass is being found, so that all of them stay in step."""

TURNS = 2
"""Turns that one width is timed for; what else the machine does can only slow one down, so the faster counts."""

WORTH = 1.05
"""By how much a larger width must be faster to be kept."""

FURTHER = 4
"""How many times the best width is tried before the search ends: two lanes may gain nothing where eight do."""


class Width:
    """The number of lanes that share a pass now.

    It begins at 1 and is doubled until it is four times the best so far, or takes in every lane; the best stays. One is
    better than another when it is at least 5 % faster in tokens per second. When the device's memory runs out, the width
    is halved and stays. A turn is a real update of every lane, so nothing is computed only to be timed.

    Args:
        fixed: the width to begin with and to keep, `None` to find it.
    """

    def __init__(self, fixed: int | None = None) -> None:
        if fixed is not None and fixed < 1:
            raise SettingError(f"most={fixed} lanes a pass make no pass; give 1 or more, or leave it out")
        self.now = fixed or 1
        self.settled = fixed is not None
        self._speeds: list[float] = []
        self._best, self._best_speed = 1, 0.0

    @property
    def places(self) -> int:
        """How many lanes are under way at once; more than share a pass while it is not settled how many do."""
        return self.now if self.settled else max(FIRST, self.now)

    def saw(self, tokens: int, seconds: float, *, lanes: int) -> None:
        """Take in a turn in passes of the present width, while `lanes` lanes are under way or still to come."""
        if self.settled:
            return
        self._speeds.append(tokens / seconds)
        if len(self._speeds) < TURNS:
            return
        speed = max(self._speeds)
        self._speeds = []
        if speed >= WORTH * self._best_speed:
            self._best, self._best_speed = self.now, speed
        if self.now >= min(lanes, FURTHER * self._best):
            self.now, self.settled = self._best, True
        else:
            self.now *= 2

    def ran_out_of_memory(self) -> None:
        """Halve the width. Raises `SettingError` when a single lane does not fit."""
        if self.now == 1:
            raise SettingError("a single lane does not fit into the device's memory; lower batch_size or max_input")
        self.now, self.settled = self.now // 2, True
