"""How the engine writes the rows of a score table, stack by stack."""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from headstart.indicators.contract import Indicator
from headstart.indicators.table import COLUMNS, WHOLE, ScoreTable

__all__ = ["NOT_FINITE", "RowWriter"]

NOT_FINITE = "its predictions are not finite numbers"


class RowWriter:
    """Collects rows in any order; `table` sorts them.

    Args:
        modules: the modules' names; methods take a module's position in this list.
        tokens: the number of target tokens of each example.
    """

    def __init__(self, modules: Sequence[str], tokens: Sequence[int]) -> None:
        self._modules = tuple(modules)
        self._tokens = np.array(tokens, dtype=np.int64)
        self._frames: list[pd.DataFrame] = []

    def examples(
        self,
        modules: Sequence[int],
        indicator: Indicator,
        positions: Sequence[int],
        values: np.ndarray,
        *,
        whole: bool = False,
        reason: str = NOT_FINITE,
    ) -> None:
        """Add a value for every module and example, (modules, examples): sums over target tokens.

        `whole`: the values are those of whole examples, each of which then counts as one token. `reason`: why a value
        is NaN.
        """
        each = np.tile(np.array(positions, dtype=np.int64), len(modules))
        tokens = np.ones_like(each) if whole else self._tokens[each]
        which, found = np.repeat(modules, len(positions)), values.ravel()
        self._add(which, indicator, examples=each, values=found, tokens=tokens, reason=reason)

    def whole(
        self,
        modules: Sequence[int],
        indicator: Indicator,
        values: Sequence[float],
        *,
        part: str = WHOLE,
        tokens: int = 0,
    ) -> None:
        """Add a value for every module, for all examples together."""
        one = np.ones(len(modules), dtype=np.int64)
        found = np.array(values, dtype=np.float64)
        self._add(np.array(modules), indicator, examples=-one, values=found, tokens=tokens * one, part=part)

    def missing(self, modules: Sequence[int], indicator: Indicator, reason: str) -> None:
        """Add missing values, with the reason."""
        one = np.ones(len(modules), dtype=np.int64)
        which = np.array(modules, dtype=np.int64)
        self._add(which, indicator, examples=-one, values=np.nan * one, tokens=0 * one, reason=reason)

    def _add(
        self,
        modules: np.ndarray,
        indicator: Indicator,
        *,
        examples: np.ndarray,
        values: np.ndarray,
        tokens: np.ndarray,
        part: str = WHOLE,
        reason: str = NOT_FINITE,
    ) -> None:
        found = np.isfinite(values)
        frame = pd.DataFrame({"position": modules, "example": examples, "value": np.where(found, values, np.nan)})
        frame["tokens"] = tokens
        frame["indicator"], frame["part"] = str(indicator.spec), part
        frame["reason"] = pd.Series(reason, index=frame.index).mask(found)
        self._frames.append(frame)

    def table(self, indicators: Sequence[str], *, examples: int) -> ScoreTable:
        """The rows, sorted by indicator, module, and example or part."""
        names = np.array(self._modules, dtype=object)
        if not self._frames:
            rows = pd.DataFrame({name: pd.Series(dtype=kind) for name, kind in COLUMNS.items()})
        else:
            rows = pd.concat(self._frames, ignore_index=True)
            rows["order"] = rows["indicator"].map({name: order for order, name in enumerate(indicators)})
            rows = rows.sort_values(["order", "position", "example"], kind="stable", ignore_index=True)
            rows = rows.assign(module=names[rows["position"].to_numpy()]).astype(COLUMNS)[list(COLUMNS)]
        return ScoreTable(rows, self._modules, tuple(indicators), examples, int(self._tokens.sum()))
