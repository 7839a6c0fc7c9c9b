from .contract import GradientIndicator, Indicator, TokenIndicator, TokenStatistics, WeightIndicator
from .registry import INDICATORS

__all__ = [
    "INDICATORS",
    "GradientIndicator",
    "Indicator",
    "TokenIndicator",
    "TokenStatistics",
    "WeightIndicator",
]
