"""Rows as a module's own task would have read them: the same template, the same options."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from headstart.errors import SettingError, TaskError
from headstart.records import ModuleCard, TaskCard, Template
from headstart.tasks import Example, Task
from headstart.tasks.options import TextRow, options_of, require_whole
from headstart.tasks.pairs import InputTemplate
from headstart.tasks.sources import Rows, locate, locate_rows
from headstart.tasks.template import FieldTemplate

__all__ = ["Reader", "rows_of", "settings_as_tuned", "task_as_tuned", "usual_split"]

CLASSIFYING = frozenset({"ACC", "Classification-F1", "Matthew-Correlation"})
"""Metrics of tasks with classes: a card that names one, but no labels, does not say what the answers are."""


@dataclass(frozen=True)
class Reader:
    """How rows become examples: the input's template, and where options come from (`None`: answers are open)."""

    template: InputTemplate
    card: TaskCard

    @classmethod
    def of(
        cls,
        card: ModuleCard | None,
        *,
        labels: Sequence[str] | None = None,
        input: str | None = None,  # noqa: A002 - as in Task.load
        separator: str | None = None,
        decoding: str = "auto",
    ) -> "Reader":
        """The reader for the module with this card (`None`: the bare backbone); arguments override the card.

        Raises `SettingError` if neither says what the answers are.
        """
        if isinstance(labels, str):
            raise SettingError(f"labels={labels!r} is one text; give a list of labels")
        known = (card and card.template) or Template()
        used = known.model_copy(update={"input": input, "separator": separator} if input else {})
        own, options = (card.labels, card.options) if card else (None, None)
        if labels is not None:
            own, options = tuple(map(str, labels)), "labels"
            if len(set(own)) < max(2, len(own)) or not all(label.strip() for label in own):
                raise SettingError(
                    f"labels {list(own)} must be two or more different texts, none of them empty; correct them"
                )
        elif card is not None and card.head is not None:
            own, options = card.head.labels or None, None
        elif decoding == "generate":
            own, options = None, None
        elif options is None and (card is None or card.template is None or card.metric in CLASSIFYING):
            name = f"the card of '{card.name}'" if card else "the bare backbone"
            raise SettingError(
                f"{name} does not say what the answers are; name them with --labels (labels in Python), or ask for "
                "open ones with --decoding generate"
            )
        task = TaskCard(name=card.task if card else "", labels=own, options=options, template=used)
        return cls(InputTemplate(used.input, used.separator), task)

    def examples(self, rows: Iterable[tuple[str, Mapping[str, object]]]) -> list[Example]:
        """The rows as examples without outputs. Raises `TaskError` naming the row that does not fit."""
        made = []
        for where, fields in rows:
            text, pair = self.template.text(fields, where=where)
            if not text.strip():
                raise TaskError(f"{where}: the input is empty; fill it in or remove the row")
            require_whole((text,), where=where)
            row = TextRow(where, text, (), fields.get("options"), None, pair)
            made.append(Example(text, (), options_of(row, self.card, source=self.card.options or "none"), pair))
        return made


def rows_of(given: object) -> Rows:
    """The rows of a JSONL, CSV, TSV or Parquet file, or in memory: a list of dicts, a pandas DataFrame and the like.

    Raises `TaskError` for anything else, for several tables, and for a file that cannot be read.
    """
    located = locate(given) if isinstance(given, str | Path) else locate_rows(given)
    if None not in located.tables:
        raise TaskError(f"{located.source} is not one table of rows; give a JSONL, CSV, TSV or Parquet file, or a list")
    return located.tables[None]


LOOKED_AT = 64
"""In how many rows of a file its columns are looked for."""


def task_as_tuned(given: object, card: ModuleCard | None) -> Task:
    """The task that a caller gave; a file, or rows in memory, are read as the module with this card was tuned.

    Raises `TaskError` for anything else, and whatever `Task.load` and `Task.from_rows` raise.
    """
    if isinstance(given, Task):
        return given
    settings = settings_as_tuned(given, card)
    return Task.load(given, **settings) if isinstance(given, str | Path) else Task.from_rows(given, **settings)


def settings_as_tuned(source: object, card: ModuleCard | None) -> dict[str, Any]:
    """The arguments with which a file, or rows in memory, are read as the task that the module was tuned on.

    They are empty where the card does not say how that was, and where the source speaks for itself: it is a folder or
    an id, has settings beside it, or has no such columns, or the standard ones. Raises `TaskError` for a table with the
    columns of the input, but not of the answers.
    """
    stored = isinstance(source, str | Path)
    if card is None or card.template is None or (stored and not Path(str(source)).expanduser().is_file()):
        return {}
    located, own = locate(source) if isinstance(source, str | Path) else locate_rows(source), card.template
    if located.settings is not None or None not in located.tables:
        return {}
    there = {name for _, row in islice(located.tables[None], LOOKED_AT) for name in row}
    read, known = (set(FieldTemplate.parse(text).columns) for text in (own.input, own.target))
    if {"input", "output"} <= there or not read <= there:
        return {}
    if not known <= there:
        table = source if stored else "the table"
        raise TaskError(
            f"{table} has no column '{min(known - there)}', which held the answers when '{card.name}' was tuned; "
            "name another one with --target (target in Task.load), or answer rows whose answers are not known with "
            "`headstart predict`"
        )
    found = {
        "input": own.input, "target": own.target, "separator": own.separator, "labels": card.labels or None,
        "metric": card.metric or None,
    }  # fmt: skip
    return {name: value for name, value in found.items() if value is not None}


def usual_split(source: object, task: Task, card: ModuleCard | None) -> str:
    """The rows that are scored if nothing is said: all of a table that is not the one that the module was tuned on.

    That is told by the names: of a file called as the module's task, of a folder and of a `Task`, it is the test split.
    Rows in memory have no name, and all of them are scored.
    """
    if card is None or not card.task or isinstance(source, Task):
        return "test"
    if not isinstance(source, str | Path):
        return "all"
    return "all" if Path(source).expanduser().is_file() and task.name != card.task else "test"
