"""How the rows of one table become splits: by their `split` field, else 60/20/20 with equal shares of every class."""

from collections import Counter
from collections.abc import Hashable, Mapping, Sequence

from headstart.errors import TaskError
from headstart.tasks.example import Example, seeded_order
from headstart.tasks.options import TextRow
from headstart.tasks.sources import SPLIT_NAMES

__all__ = ["Splits", "check_groups", "draw_splits", "named_splits"]

Splits = dict[str, tuple[Example, ...]]

SHARES = {"train": 3, "dev": 1, "test": 1}
"""The parts of a file, in fifths."""


def named_splits(rows: Sequence[TextRow], examples: Sequence[Example]) -> Splits | None:
    """The splits that the rows name, or `None` if none does. Raises `TaskError` for another name."""
    if all(row.split is None for row in rows):
        return None
    named: dict[str, list[Example]] = {"train": [], "dev": [], "test": []}
    for row, example in zip(rows, examples, strict=True):
        if str(row.split) not in SPLIT_NAMES:
            raise TaskError(f"{row.where}: split {row.split!r} is none of: {', '.join(SPLIT_NAMES)}; correct it")
        named[SPLIT_NAMES[str(row.split)]].append(example)
    return {split: tuple(part) for split, part in named.items() if part}


def draw_splits(examples: Sequence[Example], *, source: str, seed: int, labels: Sequence[str] | None = None) -> Splits:
    """Draw 60/20/20 of the rows for train, dev and test; rows of one group stay together.

    With `labels`, that is the share of each class, as nearly as its rows and the groups allow. Raises `TaskError` for
    too few rows or groups.
    """
    if len(examples) < 3:
        raise TaskError(
            f"{source} has {len(examples)} rows, too few to split into train, dev and test; add rows, "
            "or give a folder with a file for each split"
        )
    order = seeded_order(examples, purpose="split", seed=seed)
    if any(example.group is not None for example in examples):
        parts = _by_group(examples, order, source=source, labels=labels)
    elif labels and len(examples) >= sum(SHARES.values()):
        parts = _by_class(examples, order, labels)
    else:
        fifth = max(1, len(examples) // 5)
        parts = {"train": order[2 * fifth :], "dev": order[:fifth], "test": order[fifth : 2 * fifth]}
    return {split: tuple(examples[index] for index in sorted(part)) for split, part in parts.items()}


def _by_class(examples: Sequence[Example], order: Sequence[int], labels: Sequence[str]) -> dict[str, list[int]]:
    """Class after class is dealt out in turn, so that each has its share in every split, give or take a row."""
    place = {label: number for number, label in enumerate(labels)}
    dealt = sorted(order, key=lambda index: place.get(examples[index].target, -1))
    most = len(dealt) // 5 * 5
    parts: dict[str, list[int]] = {split: [] for split in SHARES}
    for position, index in enumerate(dealt):
        # A class of two rows never has both outside train.
        parts[{2: "dev", 4: "test"}.get(position % 5, "train") if position < most else "train"].append(index)
    return parts


def _by_group(
    examples: Sequence[Example], order: Sequence[int], *, source: str, labels: Sequence[str] | None
) -> dict[str, list[int]]:
    """Every group, the largest first, goes where most of the shares of its classes is still missing."""
    members: dict[Hashable, list[int]] = {}
    for index in order:
        group = examples[index].group
        members.setdefault(("alone", index) if group is None else group, []).append(index)
    if len(members) < len(SHARES):
        raise TaskError(
            f"{source} has {len(members)} groups, too few for train, dev and test; add rows of other groups, "
            "leave group out, or give a folder with a file for each split"
        )
    classes = [example.target if labels else "" for example in examples]
    whole, fifths = Counter(classes), sum(SHARES.values())
    held: dict[str, Counter[str]] = {split: Counter() for split in SHARES}
    parts: dict[str, list[int]] = {split: [] for split in SHARES}

    def missing(split: str, own: Counter[str]) -> tuple[float, float]:
        # An empty split has all of its shares missing, and is before any other of which that is true, so that none
        # stays empty.
        part = SHARES[split] / fifths
        of_classes = sum(count * (1 - held[split][name] / (part * whole[name])) for name, count in own.items())
        return round(of_classes, 9), 1 - len(parts[split]) / (part * len(examples))

    for indices in sorted(members.values(), key=len, reverse=True):
        own = Counter(classes[index] for index in indices)
        split = max(parts, key=lambda name: missing(name, own))
        parts[split].extend(indices)
        held[split] += own
    return parts


def check_groups(splits: Mapping[str, Sequence[Example]], *, source: str) -> None:
    """Raise `TaskError` for a group that is in two splits."""
    split_of: dict[str, str] = {}
    for split, examples in splits.items():
        for example in examples:
            if example.group is not None and split_of.setdefault(example.group, split) != split:
                raise TaskError(
                    f"{source}: group {example.group!r} has rows in the splits {split_of[example.group]} and {split}, "
                    "where what is learned of it would be tested; leave group out, or give its rows to one split"
                )
