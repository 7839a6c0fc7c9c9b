"""How far answers agree, and which rows only one of several answerers has right. Pure: answers in, tables out."""

import json
from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from headstart.comparing.comparison import Comparison

__all__ = ["AGREEMENT", "ALONE", "agreement", "answers_by_method", "right_alone"]

AGREEMENT = ("module", "other", "share")
ALONE = ("module", "right", "alone", "rows", "input", "target")


def agreement(predictions: Mapping[str, Sequence[str]]) -> pd.DataFrame:
    """The share of rows that every two of them (`module`, `other`) answer alike; each agrees with itself on all.

    >>> agreement({"a": ["x", "y"], "b": ["x", "z"]})["share"].tolist()
    [1.0, 0.5, 0.5, 1.0]
    """
    rows = [
        {"module": module, "other": other, "share": float(np.mean([x == y for x, y in zip(own, theirs, strict=True)]))}
        for module, own in predictions.items()
        for other, theirs in predictions.items()
    ]
    return pd.DataFrame(rows, columns=list(AGREEMENT))


def right_alone(
    predictions: Mapping[str, Sequence[str]], references: Sequence[Sequence[str]], inputs: Sequence[str]
) -> pd.DataFrame:
    """How many rows each has right, how many it alone has right, and the first of these with its answer.

    >>> right_alone({"a": ["2", "3"], "b": ["2", "4"]}, [["2"], ["3"]], ["1 + 1", "1 + 2"])[list(ALONE)].values.tolist()
    [['a', 2, 1, 2, '1 + 2', '3'], ['b', 1, 0, 2, '', '']]
    """
    right = {
        name: np.array([said in answers for said, answers in zip(own, references, strict=True)], dtype=bool)
        for name, own in predictions.items()
    }
    total = sum((own.astype(int) for own in right.values()), np.zeros(len(references), dtype=int))
    rows = []
    for name, own in right.items():
        alone = np.flatnonzero(own & (total == 1))
        first = int(alone[0]) if len(alone) else None
        rows.append(
            {"module": name, "right": int(own.sum()), "alone": len(alone), "rows": len(references),
             "input": "" if first is None else inputs[first], "target": "" if first is None else references[first][0]}
        )  # fmt: skip
    return pd.DataFrame(rows, columns=list(ALONE))


def answers_by_method(
    comparison: Comparison, *, stage: str = "tuned"
) -> tuple[dict[str, list[str]], list[list[str]], list[str]]:
    """The answers of every method to all test rows in all seeds, the right ones, and the inputs.

    Methods that have not answered everything are left out.
    """
    examples = comparison.examples.set_index("row")
    answers = comparison.answers[comparison.answers["stage"] == stage].sort_values(["seed", "row"])
    keys = answers[["seed", "row"]].drop_duplicates()
    found = {}
    for method in comparison.methods:
        own = answers[answers["method"] == method]
        if len(own) == len(keys) and len(own):
            found[method] = own["prediction"].fillna("").astype(str).tolist()
    rows = keys["row"].tolist()
    return (
        found,
        [json.loads(examples["references"][row]) for row in rows],
        [str(examples["input"][row]) for row in rows],
    )
