"""What an indicator may ask for from the engine. No indicator runs the backbone itself."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import cached_property
from typing import ClassVar

from torch import Tensor

from headstart.architectures import Part
from headstart.backbones import target_loss
from headstart.indicators.table import WHOLE
from headstart.kinds import Module
from headstart.kinds.updates import Update
from headstart.specs import Spec, Specified

__all__ = [
    "WHOLE",
    "GradientIndicator",
    "Indicator",
    "Need",
    "ProjectionIndicator",
    "Spec",
    "TokenIndicator",
    "TokenStatistics",
    "WeightIndicator",
    "part_name",
]


class Need(StrEnum):
    """What an indicator may need; the engine computes each need once for all indicators."""

    PREDICTIONS = "predictions"
    """Logits at the target tokens."""
    BASE_PASS = "base_pass"
    """What the layers of the bare backbone compute, from one pass that serves every module."""
    GRADIENTS = "gradients"
    """Gradients of the cross-entropy with respect to every module's own parameters."""
    HIDDEN_STATES = "hidden_states"
    """Outputs of the backbone's parts."""
    PARAMETERS = "parameters"
    """The tuned parameters themselves."""
    REFERENCE = "reference"
    """A module that was tuned on the new task."""
    TUNING = "tuning"
    """Some steps of tuning every module on the new task."""


@dataclass(frozen=True)
class Indicator(Specified, ABC):
    """A score of one module for one task; higher = more similar. A frozen dataclass: its fields are its parameters.

    A field has a default, and its type says which values are allowed (`int | None`, a `Literal`, ...). Class
    attributes: `name` as the user types it; `source`, the paper and section; `needs`, what the engine must compute;
    `distribution`, whether it is defined only for probabilities of answers, and so not for a regression; `version`,
    raised by hand when it gives other values than before, so that stored ones are computed again.
    """

    source: ClassVar[str]
    needs: ClassVar[frozenset[Need]]
    distribution: ClassVar[bool] = True
    version: ClassVar[int] = 1


@dataclass(frozen=True, eq=False)
class TokenStatistics:
    """What N modules predict at M target tokens.

    `logits` (N, M, V); `gold` (M,) token ids; `reference_log_p` (M, V) of the reference module, or `None`. On an
    encoder, labels or positions in the text take the place of tokens; for a regression, V is 1 and `gold` are values.
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
        """log p of the gold token, (N, M); for a regression, the negative squared error."""
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

    needs = frozenset({Need.PREDICTIONS})

    @abstractmethod
    def per_token(self, tokens: TokenStatistics) -> Tensor:
        """The value of every token, (N, M)."""


class ProjectionIndicator(Indicator):
    """An indicator of how a module's updates meet the activations of the bare backbone; no module is run.

    Its value for an example is the mean, over the layers that the module changes, of the mean over the tokens that the
    layer reads: inputs and gold targets, as in any pass that scores. "mean" and "sum" are over examples. A layer where
    the update is 0 is left out; modules whose kind adds nothing linear have no value (see `Module.updates`).
    """

    needs = frozenset({Need.BASE_PASS})
    distribution = False

    @abstractmethod
    def prepare(self, updates: Sequence[Update]) -> Tensor:
        """What is held during the pass of N updates of equal shapes at one layer; none is 0. The first dimension is N.

        Float32, on the CPU: the engine moves it to the backbone's device.
        """

    @abstractmethod
    def per_token(self, held: Tensor, activations: Tensor) -> Tensor:
        """The values, (M, N), for M activations (M, D) of the layer; M token ids (M,) if it is an embedding."""


class GradientIndicator(Indicator):
    """An indicator of the gradient of the summed cross-entropy with respect to each module's own parameters."""

    needs = frozenset({Need.GRADIENTS})

    @abstractmethod
    def by_part(self, squared: Mapping[str, Tensor], parts: Mapping[str, Part]) -> Mapping[str, Tensor]:
        """The values by part, (N,) each, from the squared gradient norm of each parameter, (N,) each.

        `parts`: where in the backbone each parameter is. The part `WHOLE` is the score; the others are parts of it,
        for which nothing is computed again. Without `WHOLE`, the modules have no value.
        """


class WeightIndicator(Indicator):
    """An indicator that compares tuned parameters with those of the reference module; no forward pass."""

    needs = frozenset({Need.PARAMETERS, Need.REFERENCE})

    @abstractmethod
    def from_modules(self, modules: Sequence[Module], reference: Module) -> list[float | str]:
        """One value per module, or the reason why it has none."""


def part_name(part: Part) -> str:
    """The name of a part of the backbone in a score table: `decoder.3.attention`; `other` outside the blocks."""
    return "other" if part.block is None else ".".join(str(word) for word in part if word is not None)
