"""How well each class is recognized from each start, counted from the answers that a comparison keeps."""

import json

import numpy as np
import pandas as pd
from sklearn.metrics import precision_recall_fscore_support

from headstart.comparing.comparison import Comparison

__all__ = ["class_scores"]

COLUMNS = ("stage", "method", "class", "rows", "precision", "recall", "f1")


def class_scores(comparison: Comparison) -> pd.DataFrame:
    """Precision, recall and F1 of every class, method and stage: means over the seeds in which they are defined.

    `rows` counts the test rows of the class. Where several answers to a row are right, the one that was given counts
    as its class. Empty where the task has no labels, or the comparison keeps no answers.
    """
    classes = list(comparison.task.labels or ())
    if not classes or comparison.answers.empty:
        return pd.DataFrame(columns=list(COLUMNS))
    examples = comparison.examples.set_index("row")
    right = {row: json.loads(text) for row, text in examples["references"].items()}
    support = examples["target"].value_counts()
    found = []
    for (stage, method, _), own in comparison.answers.groupby(["stage", "method", "seed"], sort=False):
        given = own["prediction"].tolist()
        targets = [
            answer if answer in right[row] else examples["target"][row]
            for answer, row in zip(given, own["row"], strict=True)
        ]
        precision, recall, f1, _ = precision_recall_fscore_support(targets, given, labels=classes, zero_division=np.nan)
        for name, *values in zip(classes, precision, recall, f1, strict=True):
            found.append((stage, method, name, int(support.get(name, 0)), *values))
    table = pd.DataFrame(found, columns=list(COLUMNS))
    return table.groupby(["stage", "method", "class", "rows"], sort=False).mean().reset_index()
