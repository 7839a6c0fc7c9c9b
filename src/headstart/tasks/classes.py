"""Classes that nobody named: targets that are few, short and repeated."""

import re
from collections import Counter
from collections.abc import Iterable

from headstart.tasks.columns import MOST_CLASSES

__all__ = ["LEAST_ROWS", "MOST_CLASSES", "MOST_WORDS", "alike", "found_labels"]

LEAST_ROWS = 5
"""On average, a class has at least this many rows."""

MOST_WORDS = 5
"""A class is named by at most this many words."""

_WHOLE = re.compile(r"(-?[0-9]+)\.0+")


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


def alike(labels: Iterable[str]) -> tuple[tuple[str, ...], ...]:
    """The labels that differ from others only in case, in space, or as 1 differs from 1.0; those that do, together.

    >>> alike(("Yes", "maybe", "yes", "yes ", "1", "1.0"))
    (('Yes', 'yes', 'yes '), ('1', '1.0'))
    """
    found: dict[str, list[str]] = {}
    for label in labels:
        plain = " ".join(label.split()).casefold()
        number = _WHOLE.fullmatch(plain)
        found.setdefault(number[1] if number else plain, []).append(label)
    return tuple(tuple(same) for same in found.values() if len(same) > 1)
