"""The indicators, one file each; every one is oriented so that higher means more similar."""

from headstart.registry import Registry
from headstart.scoring.indicators.contract import (
    GradientIndicator,
    Indicator,
    TokenIndicator,
    TokenStatistics,
    WeightIndicator,
)
from headstart.scoring.indicators.cosine import Cosine
from headstart.scoring.indicators.el2n import El2n
from headstart.scoring.indicators.grand import Grand
from headstart.scoring.indicators.kl import Kl
from headstart.scoring.indicators.loss import Loss
from headstart.scoring.indicators.tupate import Tupate

__all__ = [
    "INDICATORS",
    "GradientIndicator",
    "Indicator",
    "TokenIndicator",
    "TokenStatistics",
    "WeightIndicator",
]

INDICATORS: Registry[Indicator] = Registry("indicator", group="headstart.indicators")
for _indicator in (Loss(), Cosine(), El2n(), Kl(), Grand(), Tupate()):
    INDICATORS.add(_indicator.name, _indicator)
