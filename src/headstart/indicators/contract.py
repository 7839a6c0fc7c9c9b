"""What an indicator may ask of the engine. No indicator runs the backbone itself."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar

from torch import Tensor

from headstart.backbones import target_loss
from headstart.kinds import Module

__all__ = ["GradientIndicator", "Indicator", "TokenIndicator", "TokenStatistics", "WeightIndicator"]


class Indicator(ABC):
    """A score of one module for one task; higher = more similar.

    Class attributes: `name` as the user types it; `source`, the paper and section; `needs_reference`, whether a module
    tuned on the new task itself must be there; `distribution`, whether it is defined for probabilities of answers only,
    and so not for a regression; `temperature`, the softmax temperature used where none is asked for.
    """

    name: ClassVar[str]
    source: ClassVar[str]
    needs_reference: ClassVar[bool] = False
    distribution: ClassVar[bool] = True
    temperature: ClassVar[float]


@dataclass(frozen=True, eq=False)
class TokenStatistics:
    """What N modules predict at M target tokens.

    `logits` (N, M, V); `gold` (M,) token ids; `reference_log_p` (M, V) of the reference module, or `None`. On an
    encoder its labels, or the places of its text, stand for tokens; for a regression V is 1 and gold are values.
    """

    logits: Tensor
    gold: Tensor
    reference_log_p: Tensor | None = None

    @cached_property
    def log_p(self) -> Tensor:
        """Natural log of the softmax over the vocabulary, (N, M, V), float32."""
        return self.logits.float().log_softmax(-1)

    @cached_property
    def gold_log_p(self) -> Tensor:
        """log p of the gold token, (N, M); for a regression the negative squared error."""
        if self.gold.is_floating_point():
            return -target_loss(self.logits, self.gold)
        index = self.gold.view(1, -1, 1).expand(self.log_p.shape[0], -1, 1)
        return self.log_p.gather(2, index).squeeze(2)

    @cached_property
    def squared_norm(self) -> Tensor:
        """‖p‖₂² = Σ_v p_v², (N, M)."""
        return self.log_p.detach().mul(2).exp().sum(-1)


class TokenIndicator(Indicator):
    """An indicator that is a mean or a sum over target tokens."""

    @abstractmethod
    def per_token(self, tokens: TokenStatistics) -> Tensor:
        """The value of every token, (N, M)."""


class GradientIndicator(Indicator):
    """An indicator of the cross-entropy's gradient with respect to each module's own parameters."""

    @abstractmethod
    def from_squared_gradients(self, squared: Mapping[str, Tensor]) -> Tensor:
        """From the squared gradient norm of each parameter, (N,) each, one value per module, (N,)."""


class WeightIndicator(Indicator):
    """An indicator that compares tuned parameters with those of the reference module; no forward pass."""

    needs_reference = True

    @abstractmethod
    def from_modules(self, modules: Sequence[Module], reference: Module) -> list[float | str]:
        """One value per module, or the reason why it has none."""
