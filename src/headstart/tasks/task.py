"""A task: its card and its splits, how it is read, and how smaller tasks are drawn from it."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain
from pathlib import Path

from headstart.errors import SettingError, TaskError, of_type
from headstart.records import TaskCard
from headstart.showing import line
from headstart.tasks.example import Example, seeded_order
from headstart.tasks.few_shot import USUAL_SHOTS, draw_few_shot
from headstart.tasks.loading import load_task
from headstart.tasks.settings import Wishes
from headstart.tasks.showing import html_of, words_of
from headstart.tasks.sources import locate, locate_rows

__all__ = ["Example", "Task", "TaskLike", "as_task"]

EVERY = "all"
"""Stands for the rows of all splits, where a split is named."""

FEW = "few_shot(k=16)"
"""How Python draws few rows."""


@dataclass(frozen=True, repr=False)
class Task:
    """A named data set with splits, a text-to-text format, a metric and a family.

    `notes` say what was inferred or drawn otherwise than one would expect, such as labels that nobody named.

    >>> task = Task(TaskCard(name="echo"), {"train": (Example("a", ("a",)),)})
    >>> task.train[0].target
    'a'
    >>> task
    Task(echo: 1 train; EM; open answers)
    """

    card: TaskCard
    splits: Mapping[str, tuple[Example, ...]]
    notes: tuple[str, ...] = field(default=(), compare=False)

    def __repr__(self) -> str:
        return line(type(self).__name__, words_of(self.card, self.splits))

    def _repr_html_(self) -> str:
        return html_of(self.card, self.splits)

    @classmethod
    def load(
        cls,
        source: str | Path,
        *,
        name: str | None = None,
        metric: str | None = None,
        labels: Sequence[str] | None = None,
        family: str | None = None,
        options: str | None = None,
        input: str | None = None,  # noqa: A002
        target: str | None = None,
        separator: str | None = None,
        group: str | None = None,
        seed: int = 0,
    ) -> "Task":
        """Read a task from a file, a folder, or a `datasets` id. Arguments override a `task.json`.

        >>> Task.load("tickets.csv", input="ticket_text", target="label_name")  # doctest: +SKIP
        Task(tickets: 120 train, 40 dev, 40 test; ACC; 4 labels)

        Args:
            source: a JSONL, CSV or TSV file (also `.gz`) or a Parquet file, whose rows are split by their `split`
                field if they have one, else 60/20/20 into train, dev and test, and whose settings may be beside it
                (`tickets.task.json` for `tickets.csv`); a folder with `train`, `dev` (or `validation`) and `test` files
                of these formats and optionally a `task.json`, where a `train` file alone is split like a single file; a
                folder written by `datasets.save_to_disk`; or, if there is no such path, a Hugging Face id,
                "owner/name" or "owner/name:config", with "hf://" before it where a folder "owner" is here. A split
                whose labels are hidden (all -1) is left out.
            name: the task's name; default: `task.json`'s, else from the source.
            metric: a name in `METRICS`; default "ACC" for a task with labels, else "EM".
            labels: the classes, as target texts; every target must be one of them. "none": there are none. Default:
                the targets, if they look like classes (see `tasks.classes.found_labels`); `notes` then say so.
            family: the group of similar tasks that it belongs to.
            options: where the closed set of answers comes from: "labels", "field" (each row's `options` list),
                "inline" ("(A) … (B) …" in the input), or "none" for open answers. Default: the labels if
                there are any; else the first of "field" and "inline" that fits every row; else "none".
                A `task.json` writes "none" as null.
            input: the column of the input, or a Python format string over a row's columns; default "{input}".
            target: the same for the target; default "{output}". A column that holds a list gives one acceptable answer
                for each element.
            separator: the text between two texts that encoders read as a pair, in the input's template or, if it has
                none, in every row's input ("[SEP]" in "{premise} [SEP] {hypothesis}"). An input's column may also hold
                a list of two texts. Language models read both as one text.
            group: the column that says which rows belong together, such as an author's: rows of one group are never in
                different splits. A row without a value is a group of its own.
            seed: seeds the 60/20/20 split.

        Raises:
            TaskError: the source cannot be read, is empty, or a row does not fit; names file, line and field.
            CardError: `task.json` has a malformed field.
            SettingError: unknown metric or options source.
        """
        if not isinstance(source, str | Path):
            raise TaskError(f"{of_type('source', source)}; for rows in memory, call Task.from_rows")
        wishes = Wishes(
            name=name, metric=metric, labels=labels, family=family, options=options, input=input, target=target,
            separator=separator, group=group,
        )  # fmt: skip
        return cls(*load_task(locate(source), wishes=wishes, seed=seed))

    @classmethod
    def from_rows(
        cls,
        rows: object = None,
        *,
        splits: Mapping[str, object] | None = None,
        name: str | None = None,
        metric: str | None = None,
        labels: Sequence[str] | None = None,
        family: str | None = None,
        options: str | None = None,
        input: str | None = None,  # noqa: A002
        target: str | None = None,
        separator: str | None = None,
        group: str | None = None,
        seed: int = 0,
    ) -> "Task":
        """Make a task of rows in memory; the other arguments are those of `load`.

        Args:
            rows: a list of dicts, a pandas DataFrame, a `datasets.Dataset` or a pyarrow Table, whose rows are split by
                their `split` field if they have one, else 60/20/20; or a `datasets.DatasetDict`.
            splits: instead of `rows`, the rows of each split by its name: train, dev (or validation) and test.
            name: the task's name; default "rows".
            metric: see `load`, as for all that follow.

        Raises:
            TaskError: rows of another type, or both or neither of `rows` and `splits`; else as `load`.

        >>> Task.from_rows([{"text": f"{word} {n}", "class": word} for word in ("good", "bad") for n in range(5)],
        ...                input="text", target="class", name="words")
        Task(words: 6 train, 2 dev, 2 test; ACC; 2 labels)
        """
        if (rows is None) == (splits is None):
            raise TaskError("give either rows or splits: " + ("neither is given" if rows is None else "both are given"))
        wishes = Wishes(
            name=name, metric=metric, labels=labels, family=family, options=options, input=input, target=target,
            separator=separator, group=group,
        )  # fmt: skip
        located = locate_rows(rows) if splits is None else locate_rows(splits, parameter="splits")
        return cls(*load_task(located, wishes=wishes, seed=seed))

    @property
    def name(self) -> str:
        """The task's name."""
        return self.card.name

    @property
    def train(self) -> tuple[Example, ...]:
        """The rows to tune on. Raises `TaskError` if there is no such split."""
        return self.rows("train")

    @property
    def dev(self) -> tuple[Example, ...]:
        """The rows by which states are chosen. Raises `TaskError` if there is no such split."""
        return self.rows("dev")

    @property
    def test(self) -> tuple[Example, ...]:
        """The rows whose score is reported. Raises `TaskError` if there is no such split."""
        return self.rows("test")

    def rows(self, split: str) -> tuple[Example, ...]:
        """The rows of `split`, or of "all" splits in the order in which they were read.

        If it is missing, raises `TaskError`, which names the others.
        """
        if split == EVERY and self.splits and split not in self.splits:
            return tuple(sorted(chain.from_iterable(self.splits.values()), key=lambda row: row.position))
        if split not in self.splits:
            known = ", ".join(self.splits) or "none"
            from_train = f", or draw few rows with {FEW}, which takes dev from train" if split == "dev" else ""
            raise TaskError(
                f"task '{self.name}' has no split '{split}' (it has: {known}); add a {split} file to its folder, "
                f"or give one file whose rows name their split{from_train}"
            ).with_options({FEW: "--shots 16"})
        return self.splits[split]

    def fingerprint(self, split: str) -> str:
        """SHA-256 of everything that a score on `split` depends on: metric, labels, source of options, and the rows.

        Name, licence and template do not count: the rows already hold the text that the template made.
        """
        format_ = [self.card.metric, self.card.labels, self.card.options]
        digest = hashlib.sha256(json.dumps(format_).encode())
        for row in self.rows(split):
            digest.update(b"\n" + row.to_json().encode())
        return digest.hexdigest()

    def few_shot(self, *, k: int | None = None, seed: int = 0) -> "Task":
        """The same task with few rows for train and dev, and test unchanged ([PEWE] section 3.1, after CrossFit).

        A task with labels gets `k` rows per class (default 16), any other one 4·`k` (default 64), for train and dev
        alike. Both hold distinct rows, and no row or group is in both. Dev is drawn from the dev split; what that lacks
        comes from the rest of train, and `notes` say so. The draw depends only on the rows' content
        and `seed`, not on their order.

        Raises:
            TaskError: too few distinct rows, for a class or in total; it states how many there are.
            SettingError: `k` below 1.
        """
        k = USUAL_SHOTS if k is None else k
        if k < 1:
            raise SettingError(f"few-shot size k={k} is too small; give 1 or more").with_options(
                {f"few-shot size k={k}": f"--shots {k}"}
            )
        drawn = draw_few_shot(self.card, train=self.train, dev=self.splits.get("dev"), k=k, seed=seed)
        splits = {**self.splits, "train": drawn.train, "dev": drawn.dev}
        return replace(self, splits=splits, notes=self.notes + drawn.notes)

    def take(self, split: str, n: int, *, seed: int = 0) -> "Task":
        """The same task with `n` randomly drawn rows of `split`, in their old order; all of them if there are no more.

        Raises `TaskError` for a missing split, `SettingError` for `n` below 1.
        """
        if n < 1:
            raise SettingError(f"cannot take {n} rows of split '{split}'; give 1 or more")
        rows = self.rows(split)
        if n >= len(rows):
            return self
        kept = sorted(seeded_order(rows, purpose="take", seed=seed)[:n])
        return replace(self, splits={**self.splits, split: tuple(rows[index] for index in kept)})


TaskLike = Task | str | Path
"""A task, or the file, folder or data set's id that `Task.load` reads it from."""


def as_task(given: TaskLike) -> Task:
    """The task that a caller gave, or that `Task.load` reads from what was given.

    Raises `TaskError` for a value of another type, and whatever `Task.load` raises.
    """
    if isinstance(given, Task):
        return given
    if isinstance(given, str | Path):
        return Task.load(given)
    raise TaskError(
        f"{of_type('task', given)}; give a Task, or the path of a file or folder that Task.load reads; "
        "Task.from_rows makes one of rows in memory"
    )
