"""A task: its card and its splits, how it is read, and how smaller tasks are drawn from it."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from headstart.errors import SettingError, TaskError, of_type
from headstart.records import TaskCard
from headstart.showing import cut, line
from headstart.tasks.example import Example, seeded_order
from headstart.tasks.few_shot import USUAL_SHOTS, draw_few_shot
from headstart.tasks.loading import Wishes, load_task

__all__ = ["Example", "Task", "TaskLike", "as_task"]


@dataclass(frozen=True)
class Task:
    """A named data set with splits, a text-to-text format, a metric and a family.

    >>> task = Task(TaskCard(name="echo"), {"train": (Example("a", ("a",)),)})
    >>> task.train[0].target
    'a'
    """

    card: TaskCard
    splits: Mapping[str, tuple[Example, ...]]

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
        input_template: str | None = None,
        target_template: str | None = None,
        separator: str | None = None,
        seed: int = 0,
    ) -> "Task":
        """Read a task from a file, a folder, or a `datasets` id. Arguments override a `task.json`.

        Args:
            source: a JSONL, CSV or TSV file (also `.gz`) or a Parquet file, whose rows are split by their `split`
                field if they have one, else 60/20/20 into train, dev and test; a folder with `train`, `dev` (or
                `validation`) and `test` files of these formats and optionally a `task.json`; a folder written by
                `datasets.save_to_disk`; or, if there is no such path, a Hugging Face id, "owner/name" or
                "owner/name:config". A split whose labels are hidden (all -1) is left out.
            name: the task's name; default: `task.json`'s, else from the source.
            metric: a name in `METRICS`; default "ACC" for a task with labels, else "EM".
            labels: the classes, as target texts; every target must be one of them.
            family: the group of similar tasks that it belongs to.
            options: where the closed set of answers comes from: "labels", "field" (each row's `options` list),
                "inline" ("(A) … (B) …" in the input), or "none" for open answers. Default: the labels if
                there are any; else the first of "field" and "inline" that fits every row; else "none".
                A `task.json` writes "none" as null.
            input_template: Python format string over a row's fields for the input; default "{input}".
            target_template: the same for the target; default "{output}". A template that is one bare field may name
                a list: each element is an acceptable answer.
            separator: the text between two texts that encoders read as a pair, in the input's template or, if it has
                none, in every row's input ("[SEP]" in "{premise} [SEP] {hypothesis}"). A template that is one bare
                field may also name a list of two texts. Language models read both as one text.
            seed: seeds the 60/20/20 split.

        Raises:
            TaskError: the source cannot be read, is empty, or a row does not fit; names file, line and field.
            CardError: `task.json` has a malformed field.
            SettingError: unknown metric or options source.
        """
        wishes = Wishes(
            name=name,
            metric=metric,
            labels=labels,
            family=family,
            options=options,
            input_template=input_template,
            target_template=target_template,
            separator=separator,
        )
        return cls(*load_task(source, wishes=wishes, seed=seed))

    def __repr__(self) -> str:
        splits = ", ".join(f"{name} {len(rows):,}" for name, rows in self.splits.items())
        labels = self.card.labels
        classes = "" if labels is None else f"{len(labels)} labels: {', '.join(labels)}"
        return line(type(self).__name__, cut(self.name), f"rows: {splits or 'none'}", self.card.metric, classes)

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
        """The rows of `split`. If it is missing, raises `TaskError`, which names the existing splits."""
        if split not in self.splits:
            known = ", ".join(self.splits) or "none"
            raise TaskError(
                f"task '{self.name}' has no split '{split}' (it has: {known}); add a {split} file to its folder, "
                "or give one file whose rows name their split"
            )
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
        alike. Both hold distinct rows, and no row is in both. Dev is drawn from the dev split, or from the rest of
        train if there is none. The draw depends only on the rows' content and `seed`, not on their order.

        Raises:
            TaskError: too few distinct rows, for a class or in total; it states how many there are.
            SettingError: `k` below 1.
        """
        k = USUAL_SHOTS if k is None else k
        if k < 1:
            raise SettingError(f"few-shot size k={k} is too small; give 1 or more")
        train, dev = draw_few_shot(self.card, train=self.train, dev=self.splits.get("dev"), k=k, seed=seed)
        return replace(self, splits={**self.splits, "train": train, "dev": dev})

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
    raise TaskError(f"{of_type('task', given)}; give a Task, or the path of a file or folder that Task.load reads")
