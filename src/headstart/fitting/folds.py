"""The shots of a task cut into folds: every row is held out once, and groups are not divided."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

from headstart.errors import SettingError, TaskError
from headstart.tasks import Example, Task
from headstart.tasks.belonging import belonging
from headstart.tasks.example import seeded_order

__all__ = ["folds_of"]


def folds_of(task: Task, *, count: int, most: int | None = None, seed: int = 0) -> list[Task]:
    """Tasks like `task`, each with another part of the rows of train and dev held out as its test split.

    Folds are stratified: each has as equal a share as possible of every class in train and in dev. Rows of one group,
    and equal rows, are in one fold. Which row is in which fold depends on the rows' contents and `seed` only, not on
    their order. The test split of `task` is not read.

    Args:
        task: with train and dev splits.
        count: into how many folds the rows are cut; at least 2.
        most: at most about so many rows are answered in all, drawn at random, the same number in each fold; `None`: all
            that are held out. No fold is left out, because another tuning tells more than more rows of the same one.
        seed: of the folds.

    Raises:
        SettingError: `count` is below 2.
        TaskError: there are too few rows or groups.
    """
    if count < 2:
        raise SettingError(f"folds {count} must be at least 2")
    rows = [("train", row) for row in task.train] + [("dev", row) for row in task.dev]
    fold_of = _assigned(rows, count, labels=task.card.labels is not None, seed=seed)
    found: list[Task] = []
    for fold in range(count):
        splits: dict[str, list[Example]] = {"train": [], "dev": [], "test": []}
        for (split, row), own in zip(rows, fold_of, strict=True):
            splits["test" if own == fold else split].append(row)
        empty = next((split for split, kept in splits.items() if not kept), None)
        if empty is not None:
            raise TaskError(
                f"task '{task.name}' has {len(task.train)} rows in train and {len(task.dev)} in dev, too few to hold "
                f"out one part in {count}; add rows, or rows of other groups"
            )
        held = {split: tuple(kept) for split, kept in splits.items()}
        found.append(replace(task, splits=held, notes=()))
    return found if most is None else [_cut(fold, -(-most // count), seed=seed) for fold in found]


def _cut(fold: Task, most: int, *, seed: int) -> Task:
    """The fold with at most so many rows to answer."""
    drawn = seeded_order(fold.test, purpose="held out", seed=seed)[:most]
    return replace(fold, splits={**fold.splits, "test": tuple(fold.test[index] for index in sorted(drawn))})


def _assigned(rows: Sequence[tuple[str, Example]], count: int, *, labels: bool, seed: int) -> list[int]:
    """The fold of every row: groups, the largest first, go where their strata are rarest, then where rows are few."""
    examples = [row for _, row in rows]
    order = list(seeded_order(examples, purpose="folds", seed=seed))
    parts: dict[int, list[int]] = {}
    for index, part in zip(order, belonging([examples[index] for index in order]), strict=True):
        parts.setdefault(part, []).append(index)
    strata = [(split, row.target if labels else "") for split, row in rows]
    held: list[Counter[tuple[str, str]]] = [Counter() for _ in range(count)]
    found = [0] * len(rows)
    for indices in sorted(parts.values(), key=len, reverse=True):
        own = Counter(strata[index] for index in indices)

        def crowd(fold: int, own: Counter[tuple[str, str]] = own) -> tuple[int, int, int]:
            same = sum(held[fold][stratum] * times for stratum, times in own.items())
            return same, held[fold].total(), fold

        fold = min(range(count), key=crowd)
        held[fold].update(own)
        for index in indices:
            found[index] = fold
    return found
