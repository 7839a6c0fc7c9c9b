"""How many lanes share a pass: as many as keep the device busy, and fewer where its memory runs out."""

from __future__ import annotations

from headstart.backbones.memory import MemoryUse, require_ran_out
from headstart.errors import SettingError, TooLargeError

__all__ = ["TOO_LARGE", "Width"]

TOO_LARGE = "a single lane does not fit into the device's memory; lower batch_size or max_input"

SHARE = 0.9
"""How much of the device's memory is planned with: the allocator cannot use the gaps between tensors."""


class Width:
    """The number of lanes that share a pass now.

    It is just large enough that their rows have as many tokens as the device needs to compute at its best speed; a
    wider pass would not be faster. Fewer share a pass if the first one shows that so many would not fit into the
    device's memory later, with longer rows. When memory runs out all the same, the width is halved and stays so. Where
    memory suffices, it depends on nothing that changes from run to run, so that results repeat to the last bit.

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

    def ran_out_of_memory(self, error: Exception) -> None:
        """Halve the width. Raises `TooLargeError` if a single lane does not fit, and again an error of another type."""
        require_ran_out(error)
        if self.now == 1:
            raise TooLargeError(TOO_LARGE) from error
        self.now //= 2

    def measured(self, use: MemoryUse, *, lanes: int, share: float) -> None:
        """Lower the width to what fits, by the memory that a pass of so many lanes has used.

        `share`: the tokens of its rows, as a share of those that the longest rows of these lanes have.
        """
        if use.used > 0:
            most = use.used / lanes / share
            self.now = max(1, min(self.now, int(SHARE * (use.used + use.free) / most)))
