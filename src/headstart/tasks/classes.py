"""Classes that nobody named: targets that are few, short and repeated."""

from collections import Counter
from collections.abc import Iterable

from headstart.tasks.columns import MOST_CLASSES

__all__ = ["LEAST_ROWS", "MOST_CLASSES", "MOST_WORDS", "found_labels"]

LEAST_ROWS = 5
"""On average, a class has at least this many rows."""

MOST_WORDS = 5
"""A class is named by at most this many words."""


def found_labels(outputs: Iterable[tuple[str, ...]]) -> tuple[str, ...] | None:
    """The distinct targets in alphabetical order if they look like classes, else `None`.

    They do if every row has one answer, there are 2 to `MOST_CLASSES` different ones, each with at least `LEAST_ROWS`
    rows on average, and none has more than `MOST_WORDS` words.

    >>> found_labels([("no",), ("yes",)] * 5)
    ('no', 'yes')
    >>> found_labels([("no",), ("yes",)] * 4) is None
    True
    """
    counts: Counter[str] = Counter()
    for answers in outputs:
        if len(answers) != 1 or len(answers[0].split()) > MOST_WORDS:
            return None
        counts[answers[0]] += 1
        if len(counts) > MOST_CLASSES:
            return None
    if len(counts) < 2 or counts.total() < LEAST_ROWS * len(counts):
        return None
    return tuple(sorted(counts))
