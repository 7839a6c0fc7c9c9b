from .contract import (
    GradientIndicator,
    Indicator,
    Need,
    ProjectionIndicator,
    Spec,
    TokenIndicator,
    TokenStatistics,
    WeightIndicator,
)
from .parsing import make_indicator
from .registry import INDICATORS
from .table import WHOLE, Scores, ScoreTable

__all__ = [
    "INDICATORS",
    "WHOLE",
    "GradientIndicator",
    "Indicator",
    "Need",
    "ProjectionIndicator",
    "ScoreTable",
    "Scores",
    "Spec",
    "TokenIndicator",
    "TokenStatistics",
    "WeightIndicator",
    "make_indicator",
]
