"""Where numbers lie on an axis of a plot: only positions are computed, in percent, so that a plot fits any width."""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from headstart.tasks import METRICS

__all__ = ["Axis", "line_points", "tick_values"]

_STEPS = (1.0, 2.0, 2.5, 5.0, 10.0)
_TICKS = 5


@dataclass(frozen=True)
class Axis:
    """An axis from `low` to `high`, with round numbers at its `ticks`."""

    low: float
    high: float
    ticks: tuple[float, ...]

    @classmethod
    def of_metric(cls, name: str, values: Iterable[float]) -> "Axis":
        """The whole range of a metric, or of `values` if the metric states none."""
        metric = METRICS.get(name)
        if metric is None or metric.least is None or metric.most is None:
            return cls.around(values)
        return cls.between(metric.least, metric.most)

    @classmethod
    def around(cls, values: Iterable[float]) -> "Axis":
        """Round limits around `values`; from 0 if none of them is below."""
        known = [value for value in values if math.isfinite(value)] or [0.0, 1.0]
        low, high = min(known), max(known)
        return cls.between(min(0.0, low) if low >= 0 else low, high if high > low else low + 1.0)

    @classmethod
    def between(cls, low: float, high: float) -> "Axis":
        """An axis that holds `low` and `high`, with ticks at round numbers."""
        rough = (high - low) / (_TICKS - 1)
        power = 10.0 ** math.floor(math.log10(rough))
        step = next(factor * power for factor in _STEPS if factor * power >= rough * (1 - 1e-9))
        first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
        ticks = tuple(round(index * step, 12) for index in range(first, last + 1))
        return cls(ticks[0], ticks[-1], ticks)

    def at(self, value: float) -> float:
        """The position of `value` in percent of the axis; what lies beyond an end is at that end."""
        share = (value - self.low) / (self.high - self.low)
        return round(100 * min(max(share, 0.0), 1.0), 2)

    def holds(self, value: float) -> bool:
        """Whether `value` lies on the axis; unknown values count as if they did."""
        return not (value < self.low or value > self.high)


def tick_values(axis: Axis) -> list[dict[str, Any]]:
    """The ticks of an axis for a template: where each is, and its number with as many decimals as all need."""
    decimals = max((len(f"{tick:g}".partition(".")[2]) for tick in axis.ticks), default=0)
    return [{"at": axis.at(tick), "text": f"{tick:.{decimals}f}".replace("-", "−")} for tick in axis.ticks]


def line_points(xs: Iterable[float], ys: Iterable[float], *, across: Axis, up: Axis) -> str:
    """The points of a polyline in a drawing of 100 by 100, whose y runs downwards."""
    return " ".join(f"{across.at(x):g},{100 - up.at(y):g}" for x, y in zip(xs, ys, strict=True))
