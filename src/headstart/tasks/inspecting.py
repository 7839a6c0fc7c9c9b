"""What is understood of a task, as tables: columns, splits, classes, guesses, repeated rows, texts and lengths."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields, replace
from html import escape
from itertools import chain, islice
from pathlib import Path
from typing import Any, ClassVar, Protocol

import numpy as np
import pandas as pd

from headstart.errors import BackboneError, SettingError, of_type
from headstart.records import HeadCard, TaskCard, TextFormat
from headstart.showing import capitalized, cut, html_table, line, plural
from headstart.tasks.baselines import chance, majority
from headstart.tasks.columns import Column, source_columns
from headstart.tasks.example import Example, Text, seeded_order
from headstart.tasks.head import head_of
from headstart.tasks.showing import class_counts
from headstart.tasks.task import Task, TaskLike, as_task

__all__ = ["Inspection", "Reader", "inspect_task"]

MOST_MEASURED = 2000
"""The most rows whose texts are measured."""

SHOWN = 2
"""How many rows are shown as a model reads them."""

OF_LABELS = ("ACC", "Classification-F1", "Matthew-Correlation")
"""The metrics whose guesses are shown for a task with labels."""


class Encoding(Protocol):
    """The ids of one row, as `Backbone.encode` gives them."""

    @property
    def prompt(self) -> tuple[int, ...]:
        """What is read."""

    @property
    def target(self) -> tuple[int, ...]:
        """What is predicted."""


class Reader(Protocol):
    """What is needed of a backbone here; a `Backbone` has it."""

    tokenizer: Any
    is_encoder: ClassVar[bool]

    def encode(
        self, pairs: Iterable[tuple[Text, str]], text_format: TextFormat, *, head: HeadCard | None = None
    ) -> Sequence[Encoding]:
        """The ids of (input, target) texts."""


@dataclass(frozen=True, eq=False)
class Inspection:
    """What is understood of a task. Every table is a DataFrame, empty if there is nothing to say.

    Attributes:
        card: the task's card.
        notes: what was inferred.
        columns: column, type, rows (with a value), distinct (missing above 100,000), example.
        splits: split, rows, distinct inputs and, if rows have groups, groups.
        classes: label, and its rows in each split.
        guesses: metric, chance (a uniform guess among the options) and majority (always the most frequent answer of
            train), on the split that is named; and why there is none.
        problems: repeated inputs, inputs with different answers, and inputs in two splits: problem, splits, inputs
            (how many) and example.
        prompts: split, prompt and target of two rows of train as the model reads them, with their numbers of tokens if
            a backbone read them.
        lengths: text (input or target), unit (tokens or characters), rows measured, median, 95 % quantile, longest;
            in tokens also the longest that is read, and how many of the rows are cut.
    """

    card: TaskCard
    notes: tuple[str, ...]
    columns: pd.DataFrame
    splits: pd.DataFrame
    classes: pd.DataFrame
    guesses: pd.DataFrame
    problems: pd.DataFrame
    prompts: pd.DataFrame
    lengths: pd.DataFrame

    def __repr__(self) -> str:
        return line(type(self).__name__, *self._words)

    def _repr_html_(self) -> str:
        said = f"<p>{escape('; '.join(filter(None, self._words)))}</p>"
        tables = {name: frame for name, frame in self._tables.items() if len(frame)}
        return said + "".join(html_table(frame, title=capitalized(name)) for name, frame in tables.items())

    @property
    def _words(self) -> tuple[str, ...]:
        rows = ", ".join(f"{row['rows']:,} {row['split']}" for row in self.splits.to_dict("records")) or "no rows"
        problems = plural(len(self.problems), "problem") if len(self.problems) else ""
        return f"{cut(self.card.name)}: {rows}", self.card.metric, problems

    @property
    def _tables(self) -> dict[str, pd.DataFrame]:
        return {field.name: getattr(self, field.name) for field in fields(self)[2:]}

    def to_dict(self) -> dict[str, Any]:
        """The card, the notes and every table as a list of rows; NaN is what is missing."""
        tables = {name: frame.to_dict("records") for name, frame in self._tables.items()}
        return {"card": self.card.model_dump(mode="json"), "notes": list(self.notes), **tables}


def inspect_task(
    task: TaskLike,
    *,
    columns: Sequence[Column] | None = None,
    backbone: Reader | None = None,
    text_format: TextFormat | None = None,
) -> Inspection:
    """Look at a task without running a model.

    Args:
        task: the task, or the path that `Task.load` reads it from.
        columns: what its source holds, from `source_columns`; `None` looks there if the task is given by its path.
        backbone: a loaded one, whose tokens are shown and counted; without one, texts are shown and characters counted.
        text_format: layout and cut lengths, such as a recipe's; default: `TextFormat()`, as in the recipe few-shot.

    Raises what `Task.load` raises, `TaskError` for a row that the backbone cannot read, `SettingError` for a chat
    template without a backbone, and `BackboneError` for a backbone that is not loaded.

    >>> inspect_task(task)
    Inspection(reviews: 6 train, 6 dev, 6 test; ACC)
    """
    if isinstance(backbone, str | Path):  # this layer is below that of backbones and can load none
        raise BackboneError(f"{of_type('backbone', backbone)}; give what Backbone.load makes of it")
    data, text_format = as_task(task), text_format or TextFormat()
    if backbone is None and text_format.chat_template:
        raise SettingError(
            "a chat template is the tokenizer's own; give backbone=, or leave out chat_template"
        ).with_options({"backbone=": "--backbone", "chat_template": "--chat"})
    if columns is None:
        columns = source_columns(task) if isinstance(task, str | Path) else ()
    rows = {split: [*part] for split, part in data.splits.items()}
    first = next(iter(rows), "")
    shown = _unlike(rows.get(first, []))
    return Inspection(
        card=data.card,
        notes=data.notes,
        columns=_columns(columns),
        splits=_splits(rows),
        classes=pd.DataFrame([{"label": label, **counts} for label, counts in class_counts(data.card, rows).items()]),
        guesses=_guesses(data),
        problems=_problems(rows),
        prompts=pd.DataFrame([{"split": first, **each} for each in _prompts(data.card, shown, backbone, text_format)]),
        lengths=_lengths(data.card, _measured(rows), backbone, text_format),
    )


def _columns(columns: Sequence[Column]) -> pd.DataFrame:
    names = ("type", "rows", "distinct", "example")
    return pd.DataFrame([{"column": each.name} | {name: getattr(each, name) for name in names} for each in columns])


def _unlike(rows: Sequence[Example]) -> list[Example]:
    """The first row and the first one with another target, if there is one."""
    other = (row for row in rows if row.target != rows[0].target)
    return [*rows[:1], *islice(chain(other, rows[1:]), SHOWN - 1)]


def _splits(splits: dict[str, list[Example]]) -> pd.DataFrame:
    grouped = any(row.group is not None for rows in splits.values() for row in rows)
    return pd.DataFrame(
        [
            {"split": split, "rows": len(rows), "distinct inputs": len({row.input for row in rows})}
            | ({"groups": len({row.group for row in rows} - {None})} if grouped else {})
            for split, rows in splits.items()
        ]
    )


def _guesses(task: Task) -> pd.DataFrame:
    """On test, else dev, else whatever there is."""
    split = next((name for name in ("test", "dev", *task.splits) if name in task.splits), None)
    if split is None:
        return pd.DataFrame()
    metrics = dict.fromkeys((task.card.metric, *(OF_LABELS if task.card.labels else ())))
    found = []
    for metric in metrics:
        card = task.card.model_copy(update={"metric": metric})
        asked = replace(task, card=card, splits={"train": (), **task.splits, "test": task.splits[split]})
        guess, always = chance(asked.test, metric), majority(asked, [asked])
        note = f"Chance: {guess['note']}. Majority: {always['note']}."
        found.append(
            {"metric": metric, "split": split, "chance": guess["score"], "majority": always["score"], "note": note}
        )
    return pd.DataFrame(found)


def _problems(splits: dict[str, list[Example]]) -> pd.DataFrame:
    found = []
    where: dict[str, Counter[str]] = defaultdict(Counter)
    answers: dict[str, set[tuple[str, ...]]] = defaultdict(set)
    for split, rows in splits.items():
        for row in rows:
            where[row.input][split] += 1
            answers[row.input].add(row.outputs)
        repeated = [text for text, count in Counter(row.input for row in rows).items() if count > 1]
        found.append(("repeated input", split, repeated))
    found.append(("different answers", "all", [text for text, each in answers.items() if len(each) > 1]))
    pairs = [(one, other) for one in splits for other in splits if list(splits).index(one) < list(splits).index(other)]
    for one, other in pairs:
        both = [text for text, counts in where.items() if counts[one] and counts[other]]
        found.append(("in two splits", f"{one}, {other}", both))
    return pd.DataFrame(
        [
            {"problem": problem, "splits": named, "inputs": len(texts), "example": _line(texts[0])}
            for problem, named, texts in found
            if texts
        ]
    )


def _prompts(
    card: TaskCard, rows: Sequence[Example], backbone: Reader | None, text_format: TextFormat
) -> list[dict[str, Any]]:
    if backbone is None:
        before, after = text_format.prefix, text_format.suffix
        return [{"prompt": f"{before}{row.input}{after}", "target": f" {row.target}"} for row in rows]
    head = head_of(card) if backbone.is_encoder else None
    items = backbone.encode([(row.text, row.target) for row in rows], text_format, head=head)
    decode = backbone.tokenizer.decode
    return [
        {
            "prompt": decode(item.prompt),
            "prompt_tokens": len(item.prompt),
            "target": row.target if head else decode(item.target),
            "target_tokens": None if head else len(item.target),
        }
        for item, row in zip(items, rows, strict=True)
    ]


def _measured(splits: dict[str, list[Example]]) -> list[Example]:
    rows = [row for part in splits.values() for row in part]
    if len(rows) <= MOST_MEASURED:
        return rows
    return [rows[index] for index in seeded_order(rows, purpose="measure", seed=0)[:MOST_MEASURED]]


def _lengths(card: TaskCard, rows: Sequence[Example], backbone: Reader | None, text_format: TextFormat) -> pd.DataFrame:
    if not rows:
        return pd.DataFrame()
    if backbone is None:
        characters = {"input": [len(row.input) for row in rows], "target": [len(row.target) for row in rows]}
        return pd.DataFrame([_spread(text, "characters", counts) for text, counts in characters.items()])
    head = head_of(card) if backbone.is_encoder else None
    pairs = [(row.text, row.target) for row in rows]
    read = backbone.encode(pairs, text_format, head=head)
    if backbone.is_encoder:
        texts = [(text,) if isinstance(text, str) else (text.first, text.second) for text, _ in pairs]
        whole = [len(backbone.tokenizer(*each, verbose=False)["input_ids"]) for each in texts]
    else:
        wide = text_format.model_copy(update={"max_input": WIDE, "max_target": WIDE})
        unlimited = backbone.encode(pairs, wide, head=head)
        whole = [len(item.prompt) for item in unlimited]
    found = [_cut("input", whole, [len(item.prompt) for item in read])]
    if not backbone.is_encoder:
        found.append(_cut("target", [len(item.target) for item in unlimited], [len(item.target) for item in read]))
    return pd.DataFrame(found)


WIDE = 1_000_000
"""A length in tokens that no text reaches, so that nothing is cut."""


def _cut(text: str, whole: Sequence[int], read: Sequence[int]) -> dict[str, Any]:
    cut = sum(length > kept for length, kept in zip(whole, read, strict=True))
    return _spread(text, "tokens", whole) | {"longest read": max(read), "cut": cut}


def _spread(text: str, unit: str, counts: Sequence[int]) -> dict[str, Any]:
    median, most = np.quantile(counts, [0.5, 0.95])
    return {"text": text, "unit": unit, "rows": len(counts), "median": median, "95 %": most, "longest": max(counts)}


def _line(text: str) -> str:
    line = " ".join(text[:400].split())
    return line if len(line) <= 80 else f"{line[:80]}…"
