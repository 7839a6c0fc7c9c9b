"""Few-shot draws: K rows per class, or 4K rows of a task without classes ([PEWE] section 3.1, after CrossFit)."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from headstart.errors import TaskError
from headstart.records import TaskCard
from headstart.tasks.example import Example, seeded_order

__all__ = ["USUAL_SHOTS", "Drawn", "draw_few_shot"]

USUAL_SHOTS = 16
"""The default number of rows per class; a task without classes gets four times as many (Lv et al., 2023, §3.1)."""

Content = tuple[str, tuple[str, ...], frozenset[str]]
"""A key that equal rows share: options in another order do not make another row."""
Wanted = Mapping[str | None, int]
"""How many rows of each class; under `None`, of a task without classes."""


@dataclass(frozen=True)
class Drawn:
    """The drawn rows, and notes on rows of dev that were taken from train."""

    train: tuple[Example, ...]
    dev: tuple[Example, ...]
    notes: tuple[str, ...] = ()


def draw_few_shot(
    card: TaskCard, *, train: Sequence[Example], dev: Sequence[Example] | None, k: int, seed: int
) -> Drawn:
    """Draw `k` distinct rows per class of `card.labels`, or 4·`k` without labels, for train and for dev.

    No row and no group is in both. What `dev` lacks is drawn from the rest of `train`; if it is `None`, that is all.
    Raises `TaskError` when there are too few rows.
    """
    wanted: Wanted = {None: 4 * k} if card.labels is None else dict.fromkeys(card.labels, k)
    first = _take(train, wanted, seed=seed)
    _refuse_missing(card, wanted, first, where="split 'train'")
    own = _take(dev or (), wanted, after=first, seed=seed)
    lacking = _missing(wanted, own)
    rest = _take(train, lacking, after=first, taken=own, seed=seed)
    where = "split 'train'" if dev is None else "split 'dev', with the rest of 'train',"
    _refuse_missing(card, wanted, own + rest, where=where, after=" after the draw for train")
    there = "there is no dev split" if dev is None else f"dev has {len(own)} of the {len(own + rest)} rows to draw"
    notes = (f"{there}; {len(rest)} rows for dev were drawn from the rest of train",) if rest else ()
    return Drawn(tuple(first), tuple(own + rest), notes)


def _take(
    rows: Sequence[Example],
    wanted: Wanted,
    *,
    seed: int,
    after: Sequence[Example] = (),
    taken: Sequence[Example] = (),
) -> list[Example]:
    """What is wanted of `rows`, in seeded order: no content of `after` or `taken`, and no group of `after`."""
    contents = {_content(row) for row in (*after, *taken)}
    groups = {row.group for row in after} - {None}
    left, kept = Counter(wanted), []
    candidates = list(dict.fromkeys(rows))
    for index in seeded_order(candidates, purpose="few-shot", seed=seed):
        row = candidates[index]
        label = _class_of(row, wanted)
        if left[label] > 0 and _content(row) not in contents and row.group not in groups:
            left[label] -= 1
            contents.add(_content(row))
            kept.append(row)
    return kept


def _missing(wanted: Wanted, rows: Sequence[Example]) -> Wanted:
    found = Counter(_class_of(row, wanted) for row in rows)
    return {label: count - found[label] for label, count in wanted.items() if count > found[label]}


def _refuse_missing(card: TaskCard, wanted: Wanted, rows: Sequence[Example], *, where: str, after: str = "") -> None:
    for label, count in _missing(wanted, rows).items():
        found, needed = wanted[label] - count, wanted[label]
        if label is None:
            said = f"{where} has {found} distinct rows{after}, {needed} (4 x {needed // 4}) are needed"
        else:
            said = f"class '{label}' has {found} distinct rows in {where}{after}, {needed} are needed"
        raise TaskError(f"task '{card.name}': {said}; lower k or add rows").with_options({"lower k": "lower --shots"})


def _class_of(row: Example, wanted: Wanted) -> str | None:
    return None if None in wanted else row.target


def _content(row: Example) -> Content:
    return row.input, row.outputs, frozenset(row.options or ())
