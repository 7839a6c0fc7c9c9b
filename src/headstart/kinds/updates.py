"""What a module adds at one layer, as a linear map of an activation of the bare backbone, if it is one."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

__all__ = ["LowRank", "Scaling", "Update"]


class LowRank(NamedTuple):
    """ΔW = `up` · `down` is applied to what a layer reads: `down` (r, in), `up` (out, r) with the scaling in it.

    The inputs of an embedding are token ids; `in` is then the number of tokens, and an id stands for a one-hot vector.
    """

    down: Tensor
    up: Tensor


class Scaling(NamedTuple):
    """diag(`change`) is applied to what a layer reads or, if `after`, to what it gives; `change` (D,)."""

    change: Tensor
    after: bool


Update = LowRank | Scaling
