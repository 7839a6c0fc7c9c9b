"""Tasks of rows that are in memory already, and how a task shows itself."""

from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from headstart.errors import TaskError
from headstart.tasks import Task
from test_own_data import CLASSES, tickets

ASKED = {"input": "ticket_text", "target": "label_name", "name": "tickets"}


@pytest.fixture(scope="module")
def listed() -> Task:
    return Task.from_rows(tickets(), **ASKED)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "make",
    [
        pd.DataFrame,
        datasets.Dataset.from_list,
        pa.Table.from_pylist,
        tuple,
        iter,
        lambda rows: pd.DataFrame(rows).convert_dtypes(),
        lambda rows: pd.DataFrame(rows).astype({"label_name": "category"}),
    ],
)
def test_every_table_gives_the_same_task(make: Any, listed: Task) -> None:
    task = Task.from_rows(make(tickets()), **ASKED)
    assert task.splits == listed.splits
    assert repr(task) == "Task(tickets: 120 train, 40 dev, 40 test; ACC; 4 labels)"


def test_a_file_and_its_frame_give_the_same_task(tmp_path: Path, listed: Task) -> None:
    pd.DataFrame(tickets()).to_csv(tmp_path / "tickets.csv", index=False)
    pd.DataFrame(tickets()).to_parquet(tmp_path / "tickets.parquet")
    for name in ("tickets.csv", "tickets.parquet"):
        task = Task.load(tmp_path / name, input="ticket_text", target="label_name")
        assert task.splits == listed.splits


@pytest.mark.parametrize("make", [list, pd.DataFrame, datasets.Dataset.from_list])
def test_splits_by_key(make: Any) -> None:
    parts = {"test": make(tickets(60)[40:]), "train": make(tickets(60)[:30]), "validation": make(tickets(60)[30:40])}
    for task in (Task.from_rows(splits=parts, **ASKED), Task.from_rows(parts, **ASKED)):  # type: ignore[arg-type]
        assert {split: len(rows) for split, rows in task.splits.items()} == {"train": 30, "dev": 10, "test": 20}
        assert list(task.splits) == ["train", "dev", "test"]


def test_a_dataset_dict_brings_its_splits_and_class_names() -> None:
    names = datasets.Features({"text": datasets.Value("string"), "label": datasets.ClassLabel(names=["no", "yes"])})
    table = datasets.Dataset.from_dict({"text": list("abcdef"), "label": [0, 1] * 3}, features=names)
    hidden = datasets.Dataset.from_dict({"text": list("gh"), "label": [-1, -1]}, features=names)
    given = datasets.DatasetDict({"train": table, "validation": table.select([0, 1]), "test": hidden})
    task = Task.from_rows(given, input="text", target="label", labels=["no", "yes"])
    assert repr(task) == "Task(rows: 6 train, 2 dev; ACC; 2 labels)"
    assert task.train[1].target == "yes"


def test_values_of_numpy_and_missing_ones() -> None:
    frame = pd.DataFrame({"input": ["a", "b", "c"], "output": np.array([1, 2, 3]), "group": ["x", None, np.nan]})
    task = Task.from_rows(frame, group="group")
    rows = {row.input: row for part in task.splits.values() for row in part}
    assert {text: (row.target, row.group) for text, row in rows.items()} == {
        "a": ("1", "x"), "b": ("2", None), "c": ("3", None),
    }  # fmt: skip
    frame.loc[1, "input"] = None
    with pytest.raises(TaskError, match="the DataFrame, row 2: field 'input' has no value; fill it in or remove the"):
        Task.from_rows(frame)


WORKS = "give a list of dicts, a pandas DataFrame, a datasets.Dataset or a pyarrow Table"


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("tickets.csv", "rows is a str; to read a file or folder, call Task.load"),
        (Path("tickets.csv"), "rows is a PosixPath; to read a file or folder, call Task.load"),
        (3, f"rows is an int; {WORKS}"),
        (b"x", f"rows is a bytes; {WORKS}"),
        (["a text"], f"row 1 of rows is a str; {WORKS}"),
        (
            {"ticket_text": ["a"]},
            "rows is a dict with the keys ticket_text, not all of them splits; give a list of dicts",
        ),
        ({"train": "x"}, r"rows\['train'\] is a str; give a list of dicts"),
        ([], "the list has no rows; add some"),
        (
            pd.DataFrame([[1, 2]], columns=["a", "a"]),
            "the DataFrame: column 'a' appears twice; give each column",
        ),
    ],
)
def test_what_is_no_table(given: Any, message: str) -> None:
    with pytest.raises(TaskError, match=message):
        Task.from_rows(given)


def test_rows_and_splits_are_one_or_the_other() -> None:
    with pytest.raises(TaskError, match="give either rows or splits: neither is given"):
        Task.from_rows()
    with pytest.raises(TaskError, match="give either rows or splits: both are given"):
        Task.from_rows(tickets(), splits={"train": tickets()})


@pytest.mark.parametrize("given", [pd.DataFrame(tickets(3)), tickets(3), datasets.Dataset.from_list(tickets(3)), None])
def test_load_says_what_takes_rows(given: Any) -> None:
    with pytest.raises(TaskError, match=r"source is .*; for rows in memory, call Task.from_rows$"):
        Task.load(given)


def test_columns_that_are_missing_are_proposed_as_arguments() -> None:
    with pytest.raises(TaskError, match=r"in the DataFrame \(columns: ticket_id, ticket_text, label_name\); write"):
        Task.from_rows(pd.DataFrame(tickets()))


def test_a_notebook_shows_a_table(listed: Task) -> None:
    html = listed._repr_html_()
    assert "<caption>tickets: 120 train, 40 dev, 40 test; ACC; 4 labels</caption>" in html
    assert all(f"<th>{label}</th>" in html for label in CLASSES)
    odd = Task.from_rows([{"input": f"<b>{number}", "output": f"<i>{number}"} for number in range(5)], name="<script>")
    assert "&lt;script&gt;" in odd._repr_html_()
    assert "<script>" not in odd._repr_html_()
    assert "<i>" not in odd._repr_html_()


def test_values_of_numpy_and_pandas_are_read_as_pythons(tmp_path: Path) -> None:
    plain = [
        {"input": f"row {n}", "output": ["yes", "no"][n % 2], "options": ["no", "yes"], "known": {"a": [str(n)]}}
        for n in range(10)
    ]
    pd.DataFrame(plain).to_parquet(tmp_path / "rows.parquet")
    read = pd.read_parquet(tmp_path / "rows.parquet")
    assert isinstance(read.loc[0, "options"], np.ndarray)
    expected = Task.load(tmp_path / "rows.parquet")
    assert expected.card.options == "field"
    for rows in (plain, read, read.to_dict("records")):
        assert Task.from_rows(rows).splits == expected.splits
    answered = Task.from_rows(read, target="known[a]", options="none").test[0]
    assert answered.outputs == (answered.input.removeprefix("row "),)
    counted = [{"input": "a", "output": np.int64(1)}, {"input": "b", "output": 2}, {"input": "c", "output": 3.0}]
    assert [Task.from_rows(counted).rows(split)[0].target for split in ("train", "dev", "test")].count("1") == 1


@pytest.mark.parametrize("missing", [pd.NA, pd.NaT, np.float32("nan"), np.array(None), float("nan"), None])
def test_no_library_s_missing_value_becomes_a_text(missing: Any) -> None:
    with pytest.raises(TaskError, match="row 4: field 'output' has no value; fill it in or remove the row"):
        Task.from_rows([*({"input": f"row {n}", "output": "yes"} for n in range(3)), {"input": "x", "output": missing}])
