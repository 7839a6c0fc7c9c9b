"""How many lanes share a pass: as many as keep the device busy, and fewer where its memory runs out."""

from __future__ import annotations

from headstart.errors import SettingError

__all__ = ["Width"]


class Width:
    """The number of lanes that share a pass now.

    It is just large enough that their rows have as many tokens as the device needs to compute at its best speed; a
    wider pass would not be faster. When memory runs out, the width is halved and stays so. It depends on nothing that
    changes from run to run, so that results repeat to the last bit.

    Args:
        most: the width that the caller wants, `None` to choose it.
        budget: tokens that keep the device busy (`Backbone.token_budget`).
        lane_tokens: tokens of a typical batch of the lane with the longest ones.

    Raises:
        SettingError: `most` is below 1.
    """

    def __init__(self, most: int | None, *, budget: int, lane_tokens: int) -> None:
        if most is not None and most < 1:
            raise SettingError(f"most={most} lanes per pass must be at least 1; give 1 or more, or leave it out")
        self.now = most or max(1, budget // lane_tokens)

    def ran_out_of_memory(self) -> None:
        """Halve the width. Raises `SettingError` when a single lane does not fit."""
        if self.now == 1:
            raise SettingError("a single lane does not fit into the device's memory; lower batch_size or max_input")
        self.now //= 2
