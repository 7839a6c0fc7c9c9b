"""Few-shot draws: K rows per class, or 4K rows of a task without classes ([PEWE] section 3.1, after CrossFit)."""

from collections.abc import Collection, Sequence

from headstart.errors import TaskError
from headstart.records import TaskCard
from headstart.tasks.example import Example, seeded_order

__all__ = ["USUAL_SHOTS", "draw_few_shot"]

USUAL_SHOTS = 16
"""The default number of rows per class; a task without classes gets four times as many (Lv et al., 2023, §3.1)."""

Rows = tuple[Example, ...]
Content = tuple[str, tuple[str, ...], frozenset[str]]
"""A key that equal rows share: options in another order do not make another row."""


def draw_few_shot(
    card: TaskCard, *, train: Sequence[Example], dev: Sequence[Example] | None, k: int, seed: int
) -> tuple[Rows, Rows]:
    """Draw (train, dev): `k` distinct rows per class of `card.labels`, or 4·`k` without labels; no row is in both.

    `dev=None` draws both from `train`. Raises `TaskError` when there are too few rows.
    """
    drawn = _draw(card, train, taken=(), k=k, seed=seed, split="train")
    if dev is None:
        return drawn, _draw(card, train, taken={_content(row) for row in drawn}, k=k, seed=seed, split="train")
    return drawn, _draw(card, dev, taken={_content(row) for row in drawn}, k=k, seed=seed, split="dev")


def _draw(
    card: TaskCard, rows: Sequence[Example], *, taken: Collection[Content], k: int, seed: int, split: str
) -> Rows:
    candidates = list(dict.fromkeys(rows))
    kept_of: dict[Content, Example] = {}
    for index in seeded_order(candidates, purpose="few-shot", seed=seed):
        kept_of.setdefault(_content(candidates[index]), candidates[index])
    ordered = [row for content, row in kept_of.items() if content not in taken]
    rest = " after the draw for train" if taken else ""
    if card.labels is None:
        if len(ordered) < 4 * k:
            raise TaskError(
                f"task '{card.name}': split '{split}' has {len(ordered)} distinct rows{rest}, {4 * k} (4 x {k}) are "
                "needed; lower k or add rows"
            )
        return tuple(ordered[: 4 * k])
    wanted = dict.fromkeys(card.labels, k)
    kept = []
    for row in ordered:
        if wanted.get(row.target, 0) > 0:
            wanted[row.target] -= 1
            kept.append(row)
    for label, missing in wanted.items():
        if missing:
            raise TaskError(
                f"task '{card.name}': class '{label}' has {k - missing} distinct rows in split '{split}'{rest}, {k} "
                "are needed; lower k or add rows"
            )
    return tuple(kept)


def _content(row: Example) -> Content:
    return row.input, row.outputs, frozenset(row.options or ())
