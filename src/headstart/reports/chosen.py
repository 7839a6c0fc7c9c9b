"""The rows of the test split that a reader learns most from: those that the methods answer differently."""

import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

import pandas as pd

from headstart.comparing.comparison import SCRATCH, Comparison

__all__ = ["ROWS", "Answered", "ChosenRow", "chosen_rows"]

ROWS = 10
"""How many rows are shown."""


@dataclass(frozen=True)
class Answered:
    """What one method answered to a row: the commonest answer over its seeds, in `count` of `seeds` of them."""

    method: str
    answer: str
    right: bool
    count: int
    seeds: int


@dataclass(frozen=True)
class ChosenRow:
    """A test row with what every method answered to it."""

    row: int
    input: str
    target: str
    answers: tuple[Answered, ...]


def chosen_rows(comparison: Comparison, *, method: str, stage: str = "tuned", rows: int = ROWS) -> list[ChosenRow]:
    """Up to `rows` test rows: in turn one that `method` has right and scratch wrong, and one the other way round.

    Within each sort, rows that split the methods most evenly come first, then those with the longer way to go; rows
    on which both agree fill up the rest.
    """
    answers = comparison.answers[comparison.answers["stage"] == stage]
    if answers.empty:
        return []
    examples = comparison.examples.set_index("row")
    found = [_row(int(str(row)), own, examples, comparison.methods) for row, own in answers.groupby("row", sort=True)]
    sorts: dict[tuple[bool, bool], list[ChosenRow]] = {}
    for one in sorted(found, key=_evenness):
        right = {answered.method: answered.right for answered in one.answers}
        sorts.setdefault((right.get(method, False), right.get(SCRATCH, False)), []).append(one)
    order = [sorts.get(key, []) for key in ((True, False), (False, True))]
    rest = sorted(sorts.get((True, True), []) + sorts.get((False, False), []), key=_evenness)
    return [*_in_turn(order), *rest][:rows]


def _row(row: int, own: pd.DataFrame, examples: pd.DataFrame, methods: tuple[str, ...]) -> ChosenRow:
    right = json.loads(examples["references"][row])
    answered = []
    for method in methods:
        given = own.loc[own["method"] == method, "prediction"].fillna("").astype(str).tolist()
        if given:
            ((answer, count),) = Counter(given).most_common(1)
            answered.append(Answered(method, answer, answer in right, count, len(given)))
    return ChosenRow(row, str(examples["input"][row]), str(examples["target"][row]), tuple(answered))


def _evenness(one: ChosenRow) -> tuple[float, int]:
    """0 where half of the methods are right; equal rows stay in order."""
    return abs(sum(answered.right for answered in one.answers) - len(one.answers) / 2), one.row


def _in_turn(sorts: list[list[ChosenRow]]) -> Iterator[ChosenRow]:
    for place in range(max(map(len, sorts))):
        yield from (own[place] for own in sorts if place < len(own))
