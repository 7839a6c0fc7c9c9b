"""The indicators, one file each; every one is oriented so that higher means more similar."""

from headstart.indicators.contract import (
    GradientIndicator,
    Indicator,
    TokenIndicator,
    TokenStatistics,
    WeightIndicator,
)
from headstart.indicators.cosine import Cosine
from headstart.indicators.el2n import El2n
from headstart.indicators.grand import Grand
from headstart.indicators.kl import Kl
from headstart.indicators.loss import Loss
from headstart.indicators.tupate import Tupate
from headstart.registry import Registry

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
