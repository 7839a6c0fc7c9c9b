"""How a value reads in a table, the same on the page and in the terminal: 4 digits, and a dash for what is missing."""

import math
from collections.abc import Iterable, Sequence
from typing import Any

import pandas as pd

__all__ = [
    "DASH",
    "MEANS",
    "Footnotes",
    "cell_text",
    "common_decimals",
    "defused",
    "fixed_text",
    "frame_cells",
    "interval_text",
    "number_text",
    "short_family",
    "signed",
    "summary_cells",
]

DASH = "—"
"""Stands for a missing value. Never 0."""

_PLAIN_BELOW = 1e6

MEANS = {
    "cosine": "1 is sure and right on every token of the answers and on where they end, which alone is 0.5 of answers "
    "of one token"
}
"""What an indicator's values are, where they are easily misread."""


class Footnotes:
    """Numbers the reasons of a table in the order in which they are first used; equal reasons share a number."""

    def __init__(self) -> None:
        self._numbers: dict[str, int] = {}

    def mark(self, reason: str) -> str:
        """The mark for `reason`, as in "0.5 [1]", or nothing for an empty one. A superscript would read as a power."""
        if not reason:
            return ""
        return f"\N{NO-BREAK SPACE}[{self._numbers.setdefault(reason, len(self._numbers) + 1)}]"

    def lines(self) -> tuple[str, ...]:
        """Each number with its reason."""
        return tuple(f"[{number}] {reason}" for reason, number in self._numbers.items())


def number_text(value: float, *, digits: int = 4) -> str:
    """`value` with `digits` significant digits and a true minus sign; a dash for NaN.

    >>> number_text(0.5), number_text(-12.34567), number_text(float("nan"))
    ('0.5000', '−12.35', '—')
    """
    if math.isnan(value):
        return DASH
    if math.isinf(value):
        return "∞" if value > 0 else "−∞"
    if value == 0:
        return "0"
    whole = 10**digits <= abs(value) < _PLAIN_BELOW
    text = f"{value:.0f}" if whole else f"{value:#.{digits}g}".removesuffix(".")
    return text.replace(".e", "e").replace("-", "−")


def common_decimals(values: Iterable[float]) -> int:
    """The number of decimals that gives the largest of `values` 4 digits, so that the numbers of a table line up."""
    largest = max((abs(value) for value in values if math.isfinite(value)), default=0.0)
    return 4 if largest == 0 else min(max(0, 3 - math.floor(math.log10(largest))), 8)


def fixed_text(value: float, decimals: int) -> str:
    """`value` with `decimals` decimals, but never shown as 0 unless it is 0."""
    if not math.isfinite(value) or abs(value) < 0.5 * 10**-decimals:
        return number_text(value, digits=1)
    return f"{value:.{decimals}f}".replace("-", "−")


def interval_text(mean: float, interval: float, *, decimals: int) -> str:
    """`mean ± interval` with `decimals` decimals; without the ± if there is no interval."""
    if math.isnan(mean) or math.isnan(interval):
        return fixed_text(mean, decimals)
    return f"{fixed_text(mean, decimals)} ± {fixed_text(interval, decimals)}"


def short_family(family: str) -> str:
    """The last part of a task family's path.

    >>> short_family("Classification / Nli")
    'Nli'
    """
    return str(family).rsplit(" / ", 1)[-1]


def cell_text(value: Any) -> str:
    """Any cell of a table as text."""
    if value is None or (pd.api.types.is_scalar(value) and pd.isna(value)):
        return DASH
    if pd.api.types.is_bool(value):
        return "yes" if value else "no"
    return number_text(float(value)) if pd.api.types.is_float(value) else str(value)


def frame_cells(frame: pd.DataFrame) -> dict[str, Any]:
    """The frame as a heading and rows of texts."""
    return {"head": list(frame.columns), "body": [[cell_text(value) for value in row] for row in frame.to_numpy()]}


def signed(value: float, *, decimals: int) -> str:
    """`value` with `decimals` decimals and its sign; 0 has none."""
    text = fixed_text(value, decimals)
    return f"+{text}" if value > 0 else text


def defused(frame: pd.DataFrame) -> pd.DataFrame:
    """`frame` for a CSV file: an apostrophe precedes any text that a spreadsheet would take for a formula.

    >>> defused(pd.DataFrame({"name": ["=1+1", "rte"], "loss": [-0.5, 1.0]})).to_numpy().tolist()
    [["'=1+1", -0.5], ['rte', 1.0]]
    """
    return frame.map(lambda cell: f"'{cell}" if isinstance(cell, str) and cell.startswith(_FORMULA) else cell)


_FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n", "＝", "＋", "－", "＠")


def summary_cells(summary: pd.DataFrame, notes: Footnotes) -> pd.DataFrame:
    """The columns of a summary as texts for readers; reasons become marks and go to `notes`."""
    decimals = common_decimals([*summary["zero_shot"], *summary["tuned"]])
    stepped, rows = bool(summary["steps_to_scratch"].notna().any()), []
    for row in summary.to_dict("records"):
        cells = {"Method": str(row["method"])}
        for name, title in _ESTIMATES:
            text = interval_text(row[name], row[f"{name}_interval"], decimals=decimals)
            cells[title] = text + notes.mark(row[f"{name}_reason"])
        if stepped:  # else every cell would say the same
            steps = row["steps_to_scratch"]
            text = DASH if math.isnan(steps) else f"{steps:g}"
            cells["Steps to scratch"] = text + notes.mark(row["steps_to_scratch_reason"])
        cells["Seeds"] = _seeds(row["zero_shot_seeds"], row["tuned_seeds"])
        rows.append(cells)
    return pd.DataFrame(rows)


_ESTIMATES: Sequence[tuple[str, str]] = (
    ("zero_shot", "Zero-shot"),
    ("tuned", "Tuned"),
    ("zero_shot_gain", "Zero-shot gain"),
    ("tuned_gain", "Tuned gain"),
)


def _seeds(zero_shot: int, tuned: int) -> str:
    return str(tuned) if zero_shot == tuned else f"{zero_shot} zero-shot, {tuned} tuned"
