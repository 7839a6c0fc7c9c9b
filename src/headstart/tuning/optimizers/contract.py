"""What an optimizer of lanes does: it updates N modules at once, as if each had its own optimizer."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["Optimizer", "Pace"]


@dataclass(frozen=True, eq=False)
class Pace:
    """What differs from lane to lane in one update, each (N,): learning rate, weight decay, number of the update ≥ 1.

    All are float64, like the scalars inside an optimizer, and on the CPU, since not every device computes in float64.
    """

    lr: Tensor
    weight_decay: Tensor
    step: Tensor


class Optimizer(ABC):
    """Updates the parameters of N lanes. It holds no state itself: the state is tensors whose first dimension is N.

    Parameters and gradients come as blocks (N, G, …): G tensors of equal shape for each of N lanes. Nothing of one lane
    or of one tensor may enter another's update, or a lane's result would depend on its neighbours. `version` is raised
    by hand when it updates otherwise than before, so that stored tunings are computed again.
    """

    version: ClassVar[int] = 1

    @abstractmethod
    def fresh(self, blocks: Sequence[Tensor]) -> dict[str, Tensor]:
        """The state before the first update, by name; every tensor with the leading dimension N."""

    @abstractmethod
    def update(
        self, blocks: Sequence[Tensor], gradients: Sequence[Tensor], state: Mapping[str, Tensor], *, pace: Pace
    ) -> None:
        """Change parameters and state in place; the gradients may be overwritten."""
