"""What an indicator may ask for from the engine. No indicator runs the backbone itself."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import cached_property
from typing import Annotated, ClassVar, Literal

from pydantic import Field
from torch import Tensor

from headstart.architectures import Part, SublayerName
from headstart.backbones import target_loss
from headstart.indicators.table import WHOLE
from headstart.kinds import AnyModule, Module
from headstart.kinds.updates import Update
from headstart.specs import Spec, Specified

__all__ = [
    "WHOLE",
    "AfterSteps",
    "FeatureIndicator",
    "GradientIndicator",
    "HiddenIndicator",
    "Indicator",
    "Need",
    "OfPart",
    "OptionIndicator",
    "ParameterIndicator",
    "ProjectionIndicator",
    "Spec",
    "TokenIndicator",
    "TokenStatistics",
    "Trial",
    "TuningIndicator",
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
    OPTIONS = "options"
    """Likelihoods of every option that an example offers."""
    PARAMETERS = "parameters"
    """The tuned parameters themselves."""
    REFERENCE = "reference"
    """A module that was tuned on the new task."""
    TUNING = "tuning"
    """Some steps of tuning every module on the new task."""


RUNS = frozenset({Need.PREDICTIONS, Need.GRADIENTS, Need.HIDDEN_STATES, Need.OPTIONS})
"""What is computed by running the modules on rows."""


@dataclass(frozen=True)
class Indicator(Specified, ABC):
    """A score of one module for one task; higher = more similar. A frozen dataclass: its fields are its parameters.

    A field has a default, and its type says which values are allowed (`int | None`, a `Literal`, ...). Class
    attributes: `name` as the user types it; `source`, the paper and section; `needs`, what the engine must compute;
    `distribution`, whether it is defined only for probabilities of answers, and so not for a regression; `by_row`,
    whether each example has a value of its own, which does not depend on the others, as a race needs; `version`,
    raised by hand when it gives other values than before, so that stored ones are computed again.
    """

    source: ClassVar[str]
    needs: ClassVar[frozenset[Need]]
    distribution: ClassVar[bool] = True
    by_row: ClassVar[bool] = True
    version: ClassVar[int] = 1

    @property
    def versions(self) -> Mapping[str, int]:
        """The versions of members of other families that the values depend on, such as an embedding, by name."""
        return {}


@dataclass(frozen=True)
class OfPart(Indicator):
    """An indicator of a module's whole, or of one part of the backbone (Lv et al., 2023, tables 4 and 7 to 9).

    A part is a `stack` of an encoder-decoder, a `block` by its number from 0, a `sublayer`, or what these share.
    """

    stack: Literal["encoder", "decoder"] | None = None
    block: Annotated[int, Field(ge=0)] | None = None
    sublayer: SublayerName | None = None

    @property
    def wanted(self) -> Part:
        """The part; each of its fields is `None` if all will do."""
        return Part(self.stack, self.block, self.sublayer)

    def takes(self, part: Part) -> bool:
        """Whether a layer in this part of the backbone counts."""
        return all(asked is None or asked == found for asked, found in zip(self.wanted, part, strict=True))


@dataclass(frozen=True)
class AfterSteps(Indicator):
    """An indicator that tunes every module for `m` steps on the new task; one that needs `TUNING` is one of these."""

    m: Annotated[int, Field(gt=0)] = 50


@dataclass(frozen=True, eq=False)
class Trial:
    """What some steps of tuning on the new task made of a module: its best state, and its dev scores."""

    module: Module
    before: float
    best: float


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
    by_row = False

    @abstractmethod
    def by_part(self, squared: Mapping[str, Tensor], parts: Mapping[str, Part]) -> Mapping[str, Tensor]:
        """The values by part, (N,) each, from the squared gradient norm of each parameter, (N,) each.

        `parts`: where in the backbone each parameter is. The part `WHOLE` is the score; the others are parts of it,
        for which nothing is computed again. Without `WHOLE`, the modules have no value.
        """


class WeightIndicator(Indicator):
    """An indicator that compares tuned parameters with those of the reference module; no forward pass."""

    needs = frozenset({Need.PARAMETERS, Need.REFERENCE})
    by_row = False

    @property
    def relative(self) -> bool:
        """Whether a module's value depends on the other modules that are scored."""
        return False

    def among(self, modules: Sequence[AnyModule]) -> "WeightIndicator":
        """The indicator as it is for modules that are scored together with these; itself unless it is `relative`."""
        del modules
        return self

    @abstractmethod
    def from_modules(self, modules: Sequence[Module], reference: Module) -> list[float | str]:
        """One value per module, or the reason why it has none."""


class ParameterIndicator(Indicator):
    """An indicator that compares a module's parameters with others of the same names and shapes; no forward pass.

    The others are those of the reference module or, if the needs name `TUNING`, the module's own after some steps.
    """

    by_row = False

    @abstractmethod
    def by_part(
        self, own: Mapping[str, Tensor], other: Mapping[str, Tensor], parts: Mapping[str, Part]
    ) -> Mapping[str, float]:
        """The values by part, as in `GradientIndicator.by_part`; NaN where a value is not defined."""


class TuningIndicator(AfterSteps):
    """An indicator of how a module's dev score changes in some steps of tuning."""

    needs = frozenset({Need.TUNING})
    by_row = False
    distribution = False

    @abstractmethod
    def from_trial(self, trial: Trial) -> float:
        """The value of one module."""


class FeatureIndicator(Indicator):
    """An indicator of how well a module's features tell the answers apart.

    The features of an example are the vector that the head reads where the answer begins: the last hidden state at the
    position that predicts the first target token. On an encoder, it is the last hidden state of the first token.
    """

    needs = frozenset({Need.HIDDEN_STATES})
    by_row = False
    distribution = False

    @abstractmethod
    def from_features(self, features: Tensor, targets: Tensor) -> Tensor:
        """The value of each of N modules, (N,), or of each of E examples too, (N, E).

        `features` (N, E, D), float64 on the CPU; `targets` (E,): integers from 0 for classes, of which there are at
        least 2 and at most E / 2; for a regression, the values in float64.
        """


class HiddenIndicator(OfPart):
    """An indicator that compares outputs of parts of the backbone with those under the reference module.

    The vectors are, in a decoder, the outputs at the positions that predict target tokens; in an encoder, the mean
    over the tokens of each example. The output of the whole is what the head reads; of a stack, the outputs of its
    blocks; of a sublayer, what it adds to the residual stream. The value of an example is the mean over these outputs
    of the mean over its vectors; "mean" and "sum" are over examples.
    """

    needs = frozenset({Need.HIDDEN_STATES, Need.REFERENCE})
    distribution = False

    @abstractmethod
    def per_vector(self, states: Tensor, reference: Tensor) -> Tensor:
        """The values, (N, M), for M vectors of each of N modules (N, M, D) and of the reference module (M, D)."""


class OptionIndicator(Indicator):
    """An indicator of the likelihoods of the options that an example offers; "mean" and "sum" are over examples."""

    needs = frozenset({Need.PREDICTIONS, Need.OPTIONS})

    @abstractmethod
    def per_example(self, likelihoods: Tensor, right: Tensor) -> Tensor:
        """The value of each of N modules, (N,), from the options' log-likelihoods (N, K) and which are right (K,)."""


def part_name(part: Part) -> str:
    """The name of a part of the backbone in a score table: `decoder.3.attention`; `other` outside the blocks."""
    return "other" if part.block is None else ".".join(str(word) for word in part if word is not None)
