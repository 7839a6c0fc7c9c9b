"""Scoring many modules on one task: one pass over the examples feeds every indicator."""

from headstart.scoring.engine import Scores, score
from headstart.scoring.indicators import INDICATORS, Indicator

__all__ = ["INDICATORS", "Indicator", "Scores", "score"]
