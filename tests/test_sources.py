"""Sources: every format and place a task may come from, and what is said when it cannot be read."""

import gzip
import json
import os
import tracemalloc
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from headstart.errors import TaskError
from headstart.tasks import Example, Task

ROWS = [
    {"input": "plain", "output": "a"},
    {"input": 'comma, "quote"\nand line', "output": "b"},
    {"input": "Ünïcode 猫", "output": "c"},
]
CUT_SHORT = gzip.compress(b'{"input": "x", "output": "y"}\n' * 99, mtime=0)[:-9]
EXPECTED = tuple(Example(row["input"], (row["output"],)) for row in ROWS)


def text_of(format_: str, rows: list[dict[str, str]]) -> str:
    if format_ == "jsonl":
        return "\n".join(json.dumps(row, ensure_ascii=False) for row in rows) + "\n\n"
    separator = {"csv": ",", "tsv": "\t"}[format_]
    lines = [list(rows[0])] + [list(row.values()) for row in rows]
    quoted = ('"' + value.replace('"', '""') + '"' for line in lines for value in line)
    return "\r\n".join(separator.join(pair) for pair in zip(quoted, quoted, strict=True)) + "\r\n"


def write(path: Path, rows: list[dict[str, str]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(rows), path)
        return path
    zipped = path.suffix == ".gz"
    data = text_of((path.with_suffix("") if zipped else path).suffix[1:], rows).encode()
    path.write_bytes(gzip.compress(data) if zipped else data)
    return path


@pytest.mark.parametrize("name", ["jsonl", "csv", "tsv", "parquet", "jsonl.gz", "csv.gz", "tsv.gz"])
def test_folder_of_every_format(tmp_path: Path, name: str) -> None:
    for split in ("train", "validation", "test"):
        write(tmp_path / "t" / f"{split}.{name}", ROWS)
    write(tmp_path / "t" / "structured-train.jsonl", ROWS)
    task = Task.load(str(tmp_path / "t"))
    assert list(task.splits) == ["train", "dev", "test"]
    assert task.train == task.dev == task.test == EXPECTED
    assert task.card.source == str(tmp_path / "t")


@pytest.mark.parametrize("name", ["My.task.JSONL", "My.task.jsonl.gz", "My.task.csv", "My.task.parquet"])
def test_single_file_is_split_60_20_20_by_seed(tmp_path: Path, name: str) -> None:
    rows = [{"input": f"in {number}", "output": f"out {number}"} for number in range(50)]
    written = write(tmp_path / name.replace("JSONL", "jsonl"), rows)
    path = written.rename(tmp_path / name)
    task = Task.load(path)
    assert task.name == "My.task"
    assert [len(task.splits[split]) for split in ("train", "dev", "test")] == [30, 10, 10]
    assert {row.target for rows in task.splits.values() for row in rows} == {row["output"] for row in rows}
    assert Task.load(path, seed=0).splits == task.splits != Task.load(path, seed=1).splits


def test_single_file_split_does_not_hang_on_the_rows_order(tmp_path: Path) -> None:
    rows = [{"input": f"in {number}", "output": "x"} for number in range(20)]
    one = Task.load(write(tmp_path / "one.jsonl", rows))
    two = Task.load(write(tmp_path / "two.jsonl", rows[::-1]))
    assert {split: set(part) for split, part in one.splits.items()} == {s: set(p) for s, p in two.splits.items()}


def test_single_file_whose_rows_name_their_split(tmp_path: Path) -> None:
    splits = ["train", "validation", "train", "dev"]
    rows = [{"input": f"{number}", "output": "x", "split": split} for number, split in enumerate(splits)]
    path = tmp_path / "t.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)))
    task = Task.load(path)
    assert {split: [row.input for row in part] for split, part in task.splits.items()} == {
        "train": ["0", "2"],
        "dev": ["1", "3"],
    }


@pytest.mark.parametrize("split", ["trian", None, ["train"]])
def test_unknown_split_of_a_row(tmp_path: Path, split: Any) -> None:
    rows = [{"input": "a", "output": "x", "split": "train"}, {"input": "b", "output": "x", "split": split}]
    (tmp_path / "t.jsonl").write_text("\n".join(map(json.dumps, rows)))
    with pytest.raises(
        TaskError, match=r"t\.jsonl, line 2: split .* is none of: train, dev, validation, test; correct it"
    ):
        Task.load(tmp_path / "t.jsonl")


def test_single_file_too_small_to_split(tmp_path: Path) -> None:
    with pytest.raises(TaskError, match=r"t\.csv has 2 rows, too few to split into train, dev and test; add rows"):
        Task.load(write(tmp_path / "t.csv", ROWS[:2]))


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        (
            "a.jsonl",
            b'{"input": "x", "output": "y"}\n{"input": \n',
            r"a\.jsonl, line 2: not valid JSON \(.*\); write one JSON",
        ),
        ("a.jsonl", b'["x"]\n', r"a\.jsonl, line 1: a list, not a JSON object; write one JSON object a line"),
        ("a.jsonl", b"[" * 100_000, r"a\.jsonl, line 1: not valid JSON"),
        (
            "a.jsonl",
            b'{"input": "x", "output": "y"}\n\n\xff\n',
            r"a\.jsonl, line 3: not UTF-8 \(.*\); save the file as UTF-8",
        ),
        ("a.jsonl", b"", r"a\.jsonl has no rows; add some, or remove the file"),
        ("a.jsonl.gz", b"plain text", r"cannot read .*a\.jsonl\.gz, line 1: .*; check the file"),
        ("a.jsonl.gz", CUT_SHORT, r"cannot read .*a\.jsonl\.gz"),
        ("a.csv", b"", r"a\.csv, line 1: no header, found nothing; name each column once in the first line"),
        ("a.csv", b"input,\nx,y\n", r"a\.csv, line 1: no header, found 'input', ''"),
        ("a.csv", b"input,input\nx,y\n", r"a\.csv, line 1: no header, found 'input', 'input'"),
        (
            "a.csv",
            b"some text,yes\nother,no\n",
            r"no columns 'input' and 'output' in .*a\.csv \(columns: some text, yes\); write input=.some text.",
        ),
        (
            "a.csv",
            b'input,output\n"x\ny",z\nx,y,z\n',
            r"a\.csv, line 4: 3 values for the 2 columns input, output; check sep",
        ),
        ("a.csv", b"input,output\nx\n", r"a\.csv, line 2: 1 values for the 2 columns"),
        ("a.csv", b'input,output\nx,y\n"x" y,z\n', r"a\.csv, line 3: .*; double each quote inside a quoted field"),
        ("a.csv", b'input,output\n"x,y\n', r"a\.csv, line 2: .*; double each quote"),
        ("a.csv", b"input,output\nx,\n", r"a\.csv, line 2: field 'output' has no value"),
        ("a.tsv", b"input\toutput\nx\ty\n\xe9\tz\n", r"a\.tsv, line 3: not UTF-8"),
        ("a.csv", b"input,output\n", r"a\.csv has no rows"),
        ("a.csv", b"input,output\rx,y\rz,w\r", r"a\.csv: some lines end in a single carriage return \(CR\), .*; save"),
        ("a.parquet", b"PAR1 no", r"cannot read .*a\.parquet as Parquet: .*; write the file again"),
        (
            "a.txt",
            b"x",
            r"a\.txt has no format that is known; save it as one that is, named ….jsonl, ….csv, .* or ….tsv.gz",
        ),
        ("a.parquet.gz", b"x", r"a\.parquet\.gz has no format that is known"),
    ],
)
def test_file_that_cannot_be_read(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(TaskError, match=message):
        Task.load(tmp_path / name)


def test_empty_split_of_a_folder_names_its_file(tmp_path: Path) -> None:
    write(tmp_path / "train.jsonl", ROWS)
    (tmp_path / "dev.jsonl").touch()
    with pytest.raises(TaskError, match="split 'dev' has no rows; add some, or remove the file"):
        Task.load(tmp_path)


def test_byte_order_mark_is_no_part_of_the_first_column(tmp_path: Path) -> None:
    (tmp_path / "train.csv").write_bytes(b"\xef\xbb\xbfinput,output\nx,y\n")
    assert Task.load(tmp_path).train == (Example("x", ("y",)),)


def test_folder_without_or_with_two_files_of_a_split(tmp_path: Path) -> None:
    with pytest.raises(TaskError, match="holds no task; it needs train, dev and test files named"):
        Task.load(tmp_path)
    write(tmp_path / "dev.jsonl", ROWS)
    write(tmp_path / "validation.csv", ROWS)
    with pytest.raises(TaskError, match=r"two files for split 'dev', dev\.jsonl and validation\.csv; remove one"):
        Task.load(tmp_path)


@pytest.mark.parametrize("source", ["nowhere", "data/rows.jsonl", "a/b/c", "~nobody-of-this-name/x/y"])
def test_no_such_source(source: str) -> None:
    with pytest.raises(
        TaskError, match=r"there is nothing at .*; give a file, a folder, or a data set's id|cannot read the"
    ):
        Task.load(source)


def test_path_is_never_taken_for_an_id() -> None:
    with pytest.raises(TaskError, match="there is nothing at owner/name"):
        Task.load(Path("owner/name"))


def test_what_begins_with_a_folder_that_is_here_is_a_mistyped_path_before_it_is_an_id(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "tasks" / "reviews").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    asked: list[str] = []
    rows = [{"input": f"row {n}", "output": "ab"[n % 2]} for n in range(10)]

    def load_dataset(path: str, config: str | None) -> datasets.Dataset:
        asked.append(path)
        return datasets.Dataset.from_list(rows)

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    message = (
        r"nothing at tasks/revews \(did you mean tasks/reviews\?\); give a file or a folder, or, for the data set of"
    )
    with pytest.raises(TaskError, match=message + " that id on the Hugging Face Hub, hf://tasks/revews"):
        Task.load("tasks/revews")
    assert not asked, "the model hub is not asked"
    assert Task.load("hf://tasks/revews").name == "revews"
    assert Task.load("others/revews").name == "revews"
    assert asked == ["tasks/revews", "others/revews"]


def boolean_table(labels: list[int], *, text: str = "row") -> datasets.Dataset:
    features = datasets.Features({"text": datasets.Value("string"), "label": datasets.ClassLabel(names=["no", "yes"])})
    rows = {"text": [f"{text} {number}" for number in range(len(labels))], "label": labels}
    return datasets.Dataset.from_dict(rows, features=features)


def load_labelled(source: str | Path, **more: Any) -> Task:
    return Task.load(source, labels=["no", "yes"], input="text", target="label", **more)


def test_saved_dataset_dict_maps_validation_and_class_labels(tmp_path: Path) -> None:
    saved = datasets.DatasetDict(
        {
            "train": boolean_table([0, 1, 1]),
            "validation": boolean_table([1, 0]),
            "test": boolean_table([-1, -1]),
            "extra": boolean_table([0]),
        }
    )
    saved.save_to_disk(tmp_path / "d")
    task = load_labelled(tmp_path / "d")
    assert {split: [row.target for row in rows] for split, rows in task.splits.items()} == {
        "train": ["no", "yes", "yes"],
        "dev": ["yes", "no"],
    }
    assert task.train[0] == Example("row 0", ("no",), ("no", "yes"))
    with pytest.raises(TaskError, match=r"no split 'test' \(it has: train, dev\)"):
        _ = task.test


def test_saved_single_dataset_is_split(tmp_path: Path) -> None:
    boolean_table([0, 1] * 5).with_format("numpy").save_to_disk(tmp_path / "d")
    (tmp_path / "d" / "task.json").write_text('{"name": "saved"}')
    task = load_labelled(tmp_path / "d")
    assert task.name == "saved"
    assert [len(task.splits[split]) for split in ("train", "dev", "test")] == [6, 2, 2]


def test_one_hidden_label_is_an_error_with_its_row(tmp_path: Path) -> None:
    datasets.DatasetDict({"train": boolean_table([0, -1])}).save_to_disk(tmp_path / "d")
    with pytest.raises(TaskError, match="d, split 'train', row 2: field 'label' has no value"):
        load_labelled(tmp_path / "d")


def test_damaged_or_foreign_saved_dataset(tmp_path: Path) -> None:
    (tmp_path / "dataset_dict.json").write_text("{}")
    with pytest.raises(TaskError, match=r"cannot load the data set saved in .*; save it again"):
        Task.load(tmp_path)
    datasets.DatasetDict({"extra": boolean_table([0])}).save_to_disk(tmp_path / "d")
    with pytest.raises(TaskError, match="has the splits extra; name them train, dev, validation, test"):
        load_labelled(tmp_path / "d")
    datasets.DatasetDict({"dev": boolean_table([0]), "validation": boolean_table([1])}).save_to_disk(tmp_path / "two")
    with pytest.raises(TaskError, match="two has both a split 'dev' and a split 'validation'; remove one"):
        load_labelled(tmp_path / "two")


@pytest.mark.parametrize(
    ("source", "name", "called"),
    [
        ("owner/boolean", "boolean", ("owner/boolean", None)),
        ("owner/boolean:easy", "boolean-easy", ("owner/boolean", "easy")),
    ],
)
def test_id_is_loaded_by_datasets(
    monkeypatch: pytest.MonkeyPatch, source: str, name: str, called: tuple[str, str | None]
) -> None:
    calls = []

    def load_dataset(path: str, config: str | None = None) -> datasets.DatasetDict:
        calls.append((path, config))
        return datasets.DatasetDict({"validation": boolean_table([0, 1]), "train": boolean_table([1])})

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    task = load_labelled(source)
    assert calls == [called]
    assert (task.name, task.card.source, [row.target for row in task.dev]) == (name, source, ["no", "yes"])


def test_nested_answers_of_squad(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [{"question": "Who?", "answers": {"text": ["Ann", "Ann B."], "answer_start": [0, 0]}}] * 5
    monkeypatch.setattr(datasets, "load_dataset", lambda path, config: datasets.Dataset.from_list(rows))
    task = Task.load("owner/squad", input="{question}", target="{answers[text]}")
    assert task.train[0] == Example("Who?", ("Ann", "Ann B."))


def test_id_that_cannot_be_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    def load_dataset(path: str, config: str | None) -> None:
        raise ConnectionError("no way out")

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    with pytest.raises(
        TaskError,
        match="cannot load the data set 'owner/name': no way out; check its name, its configuration and the net",
    ):
        Task.load("owner/name")


def gzipped(path: Path, data: bytes) -> Path:
    path.write_bytes(gzip.compress(data))
    return path


@pytest.mark.parametrize(
    ("limit", "most", "data", "message"),
    [
        ("LONGEST_LINE", 50, b"x" * 51, r"t\.jsonl\.gz, line 1: longer than 50 bytes; shorten the line"),
        ("MOST_BYTES", 50, b"\n" * 51, r"t\.jsonl\.gz, line 51: the file holds more than 50 bytes; split it"),
        ("MOST_ROWS", 50, b"\n" * 51, r"t\.jsonl\.gz has more than 50 lines; split it"),
    ],
)
def test_a_small_file_that_holds_too_much(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit: str, most: int, data: bytes, message: str
) -> None:
    monkeypatch.setattr(f"headstart.tasks.sources.rows.{limit}", most)
    with pytest.raises(TaskError, match=message):
        Task.load(gzipped(tmp_path / "t.jsonl.gz", data))
    with pytest.raises(TaskError, match=r"has no rows|not valid JSON"):
        Task.load(gzipped(tmp_path / "t.jsonl.gz", data[:-1]))


def test_a_line_without_an_end_is_not_read_whole(tmp_path: Path) -> None:
    path = tmp_path / "t.jsonl.gz"
    with gzip.open(path, "wb") as stream:
        for _ in range(64):
            stream.write(b" " * 2**20)
    tracemalloc.start()
    with pytest.raises(TaskError, match=r"line 1: longer than 16,777,216 bytes"):
        Task.load(path)
    assert tracemalloc.get_traced_memory()[1] < 40 * 2**20
    tracemalloc.stop()


@pytest.mark.parametrize("name", ["t.jsonl", "t/train.csv", "t/task.json"])
def test_a_named_pipe_is_refused_instead_of_waited_for(tmp_path: Path, name: str) -> None:
    write(tmp_path / "t" / "dev.jsonl", ROWS)
    os.mkfifo(tmp_path / name)
    with pytest.raises(TaskError, match=rf"{name.split('/')[-1]} is not a regular file; replace it with the file"):
        Task.load((tmp_path / name) if name == "t.jsonl" else tmp_path / "t")


def integers(value: int, type_: pa.DataType) -> pa.Array:
    return pa.array([0, value], (type_.bit_width == 32 and pa.int32()) or pa.int64()).view(type_)


@pytest.mark.parametrize(
    "column",
    [
        integers(2**30, pa.date32()),
        integers(2**60, pa.timestamp("us")),
        integers(2**62, pa.duration("s")),
        integers(2**60, pa.time64("us")),
        pa.array([b"fine", b"\xff\xfe"]).view(pa.string()),
    ],
    ids=["date", "timestamp", "duration", "time", "text"],
)
def test_a_parquet_value_that_python_cannot_hold_is_named(tmp_path: Path, column: pa.Array) -> None:
    table = pa.table({"input": ["a", "b"], "output": ["x", "y"], "when": column})
    pq.write_table(table, tmp_path / "t.parquet")
    with pytest.raises(
        TaskError, match=r"t\.parquet, row 2: column 'when' of type .* cannot be read \(.*\); correct it"
    ):
        Task.load(tmp_path / "t.parquet")


def test_parquet_names_that_appear_twice(tmp_path: Path) -> None:
    twice = pa.StructArray.from_arrays([pa.array([1]), pa.array([2])], names=["a", "a"])
    pq.write_table(pa.table({"input": ["x"], "output": twice}), tmp_path / "inner.parquet")
    with pytest.raises(TaskError, match=r"row 1: column 'output' of type struct<.* cannot be read"):
        Task.load(tmp_path / "inner.parquet")
    table = pa.Table.from_arrays([pa.array(["x"]), pa.array(["y"])], names=["input", "input"])
    pq.write_table(table, tmp_path / "outer.parquet")
    with pytest.raises(TaskError, match=r"outer\.parquet: column 'input' appears twice; give each column a name"):
        Task.load(tmp_path / "outer.parquet")


@pytest.mark.parametrize(("limit", "what"), [("MOST_ROWS", "rows"), ("MOST_BYTES", "bytes")])
def test_parquet_that_holds_too_much(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit: str, what: str) -> None:
    monkeypatch.setattr(f"headstart.tasks.sources.parquet.{limit}", 2)
    with pytest.raises(TaskError, match=rf"more than 2 {what}; split it"):
        Task.load(write(tmp_path / "t.parquet", ROWS))
