"""A task in one line, and as a table in a notebook."""

from collections import Counter
from collections.abc import Mapping, Sequence
from html import escape

from headstart.records import TaskCard
from headstart.showing import LONGEST, cut
from headstart.tasks.example import Example

__all__ = ["class_counts", "html_of", "words_of"]

SPLITS = ("train", "dev", "test")

Splits = Mapping[str, Sequence[Example]]


def words_of(card: TaskCard, splits: Splits) -> str:
    """Name, rows of each split, metric and kind of answers: "tickets: 120 train, 40 dev; ACC; 4 labels"."""
    order = sorted(splits, key=lambda split: SPLITS.index(split) if split in SPLITS else len(SPLITS))
    rows = ", ".join(f"{len(splits[split]):,} {split}" for split in order) or "no rows"
    answers = "open answers" if card.options is None else "options in each row"
    if card.labels is not None:
        answers = f"{len(card.labels)} labels"
    return f"{cut(card.name)}: {rows}; {card.metric}; {answers}"


def class_counts(card: TaskCard, splits: Splits) -> dict[str, dict[str, int]]:
    """By label, its rows in each split; empty for a task without labels."""
    counts = {split: Counter(row.target for row in part) for split, part in splits.items()}
    return {label: {split: counts[split][label] for split in splits} for label in card.labels or ()}


def html_of(card: TaskCard, splits: Splits) -> str:
    """The rows of each split and class, and the first example, as an HTML table; every text is escaped."""
    lines = {"rows": {split: len(part) for split, part in splits.items()}} | class_counts(card, splits)
    head = "".join(f"<th>{escape(split)}</th>" for split in ("", *splits))
    body = "".join(
        f"<tr><th>{escape(name)}</th>{''.join(f'<td>{count:,}</td>' for count in counts.values())}</tr>"
        for name, counts in lines.items()
    )
    first = next((row for part in splits.values() for row in part), None)
    example = ""
    if first is not None:
        text, target = (escape(cut(each, LONGEST)) for each in (first.input, first.target))
        example = f"<p>{text} → <b>{target}</b></p>"
    caption = f"<caption>{escape(words_of(card, splits))}</caption>"
    return f"<table>{caption}<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>{example}"
