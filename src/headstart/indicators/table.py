"""The result of scoring as one long table; means and sums over target tokens are reductions of it."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import pandas as pd

from headstart.errors import SettingError
from headstart.showing import line, plural

__all__ = ["COLUMNS", "REDUCTIONS", "WHOLE", "ScoreTable", "Scores", "check_reduction", "require_distinct"]

REDUCTIONS = ("mean", "sum")
COLUMNS = {
    "module": "str", "indicator": "str", "part": "str", "example": "int64", "value": "float64", "tokens": "int64",
    "reason": "str",
}  # fmt: skip
"""The table's columns and their types; see `ScoreTable`."""

WHOLE = "all"
"""The part of a value that covers everything the indicator was asked for."""
NO_ANSWER = "no example's answer lies within the tokens that are read; raise max_input, or shorten the inputs"


@dataclass(frozen=True)
class Scores:
    """One value per module and indicator. `values[indicator][i]` belongs to `names[i]`; NaN where `reasons` says why.

    The keys of indicators are their canonical specs as text. `reduction` is over the `tokens` target tokens of the
    `examples` examples.
    """

    names: tuple[str, ...]
    values: dict[str, tuple[float, ...]]
    reduction: str
    examples: int
    tokens: int
    reasons: dict[str, dict[str, str]] = field(default_factory=dict)

    def __repr__(self) -> str:
        by = f"{plural(len(self.names), 'module')} by {', '.join(self.values) or 'no indicator'}"
        over = f"{self.reduction} over {plural(self.tokens, 'token')} of {plural(self.examples, 'example')}"
        return line(type(self).__name__, by, over)

    def best(self, indicator: str) -> int:
        """Position of the module with the highest value; raises `SettingError` if no module has a value."""
        known = [(value, -index) for index, value in enumerate(self.values[indicator]) if not math.isnan(value)]
        if not known:
            raise SettingError(f"no module has a value of '{indicator}'; use another indicator")
        return -max(known)[1]


@dataclass(frozen=True, eq=False, repr=False)
class ScoreTable:
    """Scores of modules by several indicators, a row for each (module, indicator, part, example).

    Columns of `rows`:
        module, indicator: names; an indicator's is its canonical spec.
        part: `WHOLE`, or a part of the backbone (`block.3.attention`) if the indicator tells parts apart.
        example: position among the scored examples; -1 if the value belongs to all of them together.
        value: the sum over the example's target tokens, higher is better; NaN if there is none, for the `reason` given.
        tokens: how many target tokens that sum runs over; 0 if the value comes from parameters, not from tokens, and if
            the example's answer lies beyond what is read of its input, so that it does not count.
        reason: why there is no value; missing if there is one.

    `modules` and `indicators` give the order; `examples` and `tokens` say how many were scored in all.
    """

    rows: pd.DataFrame
    modules: tuple[str, ...]
    indicators: tuple[str, ...]
    examples: int
    tokens: int

    def __repr__(self) -> str:
        by = f"{plural(len(self.modules), 'module')} by {', '.join(self.indicators) or 'no indicator'}"
        over = f"{plural(self.tokens, 'target token')} of {plural(self.examples, 'example')}"
        return line(type(self).__name__, by, over)

    def reduce(self, reduction: str = "mean") -> Scores:
        """One value per module: the "mean" or the "sum" over the target tokens of all examples.

        A sum is Σ value, a mean Σ value / Σ tokens, both over the rows of the part `WHOLE`; if a value does not come
        from tokens, both are the value itself. Without any token that counts, there is no value. Raises `SettingError`
        for another reduction.
        """
        check_reduction(reduction)
        whole = self.rows[self.rows["part"] == WHOLE].groupby(["module", "indicator"], sort=False)
        sums = whole["value"].sum()
        counts, tokens = whole.size(), whole["tokens"].sum()
        found = (sums / tokens.clip(lower=1) if reduction == "mean" else sums).where(whole["value"].count() == counts)
        found = found.mask((whole["example"].max() >= 0) & (tokens == 0))
        values = {
            name: tuple(float(found.get((module, name), math.nan)) for module in self.modules)
            for name in self.indicators
        }
        return Scores(self.modules, values, reduction, self.examples, self.tokens, self.reasons())

    def reasons(self) -> dict[str, dict[str, str]]:
        """By indicator and module, why there is no value; the first reason if several examples have none."""
        each = [self.rows["indicator"], self.rows["module"]]
        empty = (self.rows["example"] >= 0) & (self.rows["tokens"].groupby(each).transform("sum") == 0)
        told = self.rows.assign(reason=self.rows["reason"].mask(empty & self.rows["reason"].isna(), NO_ANSWER))
        missing = told[told["reason"].notna()].drop_duplicates(["indicator", "module"])
        found: dict[str, dict[str, str]] = {name: {} for name in self.indicators if name in set(missing["indicator"])}
        for row in missing.itertuples():
            found[str(row.indicator)][str(row.module)] = str(row.reason)
        return found

    def of(self, modules: Sequence[str]) -> ScoreTable:
        """The rows of some of the modules, in this order. Raises `SettingError` for an unknown module."""
        unknown = next((name for name in modules if name not in self.modules), None)
        if unknown is not None:
            raise SettingError(f"the table has no module '{unknown}'; choose one of: {', '.join(self.modules)}")
        rows = self.rows[self.rows["module"].isin(list(modules))].reset_index(drop=True)
        return ScoreTable(rows, tuple(modules), self.indicators, self.examples, self.tokens)

    @classmethod
    def concat(cls, tables: Iterable[ScoreTable]) -> ScoreTable:
        """One table from several, which have the same indicators on the same examples.

        Raises `SettingError` if indicators or examples differ, or if a module is in two tables.
        """
        first, *others = tables
        for other in others:
            if (other.indicators, other.examples, other.tokens) != (first.indicators, first.examples, first.tokens):
                raise SettingError(f"{other!r} does not go with {first!r}; score by the same indicators and examples")
        modules = tuple(name for table in (first, *others) for name in table.modules)
        require_distinct(modules)
        rows = pd.concat([table.rows for table in (first, *others)], ignore_index=True)
        return cls(rows, modules, first.indicators, first.examples, first.tokens)


def require_distinct(names: Sequence[str]) -> None:
    """Raise `SettingError` if two modules have the same name."""
    twice = next((name for name, count in Counter(names).items() if count > 1), None)
    if twice is not None:
        raise SettingError(f"two modules are called '{twice}'; rename one of them")


def check_reduction(reduction: str) -> None:
    """Raise `SettingError` for an unknown reduction."""
    if reduction not in REDUCTIONS:
        raise SettingError(f"unknown reduction '{reduction}'; choose one of: {', '.join(REDUCTIONS)}")
