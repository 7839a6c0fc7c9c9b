"""The indicators by the names that users type."""

from collections.abc import Iterable
from typing import TYPE_CHECKING

from headstart.registry import Registry
from headstart.specs import Spec, make

if TYPE_CHECKING:
    from headstart.indicators.contract import Indicator

__all__ = ["INDICATORS", "require_named"]

INDICATORS: "Registry[type[Indicator]]" = Registry(
    "indicator",
    group="headstart.indicators",
    contract="headstart.indicators:Indicator",
    members={
        "loss": "headstart.indicators.loss:Loss",
        "cosine": "headstart.indicators.cosine:Cosine",
        "el2n": "headstart.indicators.el2n:El2n",
        "kl": "headstart.indicators.kl:Kl",
        "grand": "headstart.indicators.grand:Grand",
        "arrow": "headstart.indicators.arrow:Arrow",
        "spectral": "headstart.indicators.spectral:Spectral",
        "weight_cosine": "headstart.indicators.weight_cosine:WeightCosine",
        "euclidean": "headstart.indicators.euclidean:Euclidean",
        "performance": "headstart.indicators.performance:Performance",
        "hidden_cosine": "headstart.indicators.hidden_cosine:HiddenCosine",
        "logme": "headstart.indicators.logme:LogMe",
        "h_score": "headstart.indicators.h_score:HScore",
        "knn": "headstart.indicators.knn:Knn",
        "entropy": "headstart.indicators.entropy:Entropy",
        "option_accuracy": "headstart.indicators.option_accuracy:OptionAccuracy",
        "tupate": "headstart.indicators.tupate:Tupate",
        "similarity": "headstart.indicators.similarity:Similarity",
    },
)


def require_named(asked: Iterable[str]) -> None:
    """Raise `SettingError` for a spec of an unknown indicator, or with a value that it cannot have.

    Each text may hold several. Only an indicator with parameters is imported.
    """
    for text in asked:
        for spec in Spec.parse_several(text):
            INDICATORS.require(spec.name)
            if spec.parameters:
                make(INDICATORS, spec)
