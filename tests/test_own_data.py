"""A new user's own file: what is understood without a setting, and what the errors propose."""

import csv
import json
import re
from collections import Counter
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from headstart.errors import SettingError, TaskError
from headstart.hub import Hub
from headstart.tasks import Task
from headstart.tasks.classes import found_labels
from headstart.tasks.columns import describe, guess
from program import Run, assert_mistake

CLASSES = ("billing", "delivery", "login", "refund")
Row = dict[str, Any]
pytest_plugins = ["cli_helper"]


def tickets(count: int = 200) -> list[Row]:
    """Rows as a help desk would export them."""
    return [
        {
            "ticket_id": f"T-{number:04}",
            "ticket_text": f"My {CLASSES[number % 4]} is broken since day {number}, please help",
            "label_name": CLASSES[number % 4],
        }
        for number in range(count)
    ]


def write(path: Path, rows: list[Row]) -> Path:
    with path.open("w", newline="", encoding="utf-8") as stream:
        table = csv.DictWriter(stream, list(rows[0]))
        table.writeheader()
        table.writerows(rows)
    return path


def sizes(task: Task) -> dict[str, int]:
    return {split: len(rows) for split, rows in task.splits.items()}


def test_columns_of_other_names_are_listed_and_proposed(tmp_path: Path) -> None:
    path = write(tmp_path / "tickets.csv", tickets())
    with pytest.raises(TaskError) as caught:
        Task.load(path)
    said = f"there are no columns 'input' and 'output' in {path} (columns: ticket_id, ticket_text, label_name); write "
    assert str(caught.value) == f'{said}input="ticket_text", target="label_name"'
    assert caught.value.on_command_line == f"{said}--input ticket_text --target label_name"


def test_what_is_proposed_works(tmp_path: Path) -> None:
    task = Task.load(write(tmp_path / "tickets.csv", tickets()), input="ticket_text", target="label_name")
    assert repr(task) == "Task(tickets: 120 train, 40 dev, 40 test; ACC; 4 labels)"
    assert task.card.labels == CLASSES
    assert task.train[0].options == CLASSES
    (note,) = task.notes
    assert note.startswith(
        "4 distinct targets are taken for labels: billing, delivery, login, refund; the metric is ACC"
    )
    assert note.endswith('. If answers are free text, write labels="none" (--labels none)')


def test_a_mistyped_column_is_answered_with_the_nearest(tmp_path: Path) -> None:
    path = write(tmp_path / "tickets.csv", tickets(20))
    with pytest.raises(TaskError, match=r"there is no column 'ticket_txt' in .*; write input=\"ticket_text\"$"):
        Task.load(path, input="ticket_txt", target="label_name")
    with pytest.raises(TaskError, match=r"write input=\"\{ticket_id\}: \{ticket_text\}\"$"):
        Task.load(path, input="{ticket_id}: {tickt_text}", target="label_name")
    with pytest.raises(TaskError, match=r"there is no column 'customer' in .*; write group=\"COLUMN\"$"):
        Task.load(path, input="ticket_text", target="label_name", group="customer")


def test_a_column_that_task_json_names_is_corrected_there(tmp_path: Path) -> None:
    write(tmp_path / "train.csv", tickets(20))
    (tmp_path / "task.json").write_text('{"input": "text", "target": "label_name"}')
    with pytest.raises(TaskError, match=r"no column 'text' .*; write \"input\": \"ticket_text\" in .*task\.json$"):
        Task.load(tmp_path)
    assert Task.load(tmp_path, input="ticket_text").card.labels == CLASSES


def test_a_column_whose_name_has_signs_of_templates() -> None:
    rows = [{"q: a!b [1]": f"text {number}", "gold (final)": "x"} for number in range(5)]
    task = Task.from_rows(rows, input="q: a!b [1]", target="gold (final)")
    assert {row.input for rows in task.splits.values() for row in rows} == {f"text {number}" for number in range(5)}


def test_a_blank_column_is_refused() -> None:
    with pytest.raises(
        TaskError, match=r"the template ' ' is blank; give the name of a column, or a template such as \{name\}"
    ):
        Task.from_rows(tickets(5), input=" ", target="label_name")


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        (tickets(40), ("ticket_text", "label_name")),
        ([{"question": f"{n}?", "answer": f"Because of the number {n}"} for n in range(9)], ("question", "answer")),
        ([{"question": f"{n}?", "answer": f"It is {n}", "customer": f"c{n % 4}"} for n in range(20)],
         ("question", "answer")),
        ([{"context": f"a longer text {n}", "question": f"{n}?", "label": n % 2} for n in range(9)],
         ("question", "label")),
        ([{"id": n, "a": f"a longer text, number {n}", "b": "yes" if n % 2 else "no"} for n in range(9)], ("a", "b")),
        ([{"id": n, "stars": n % 5, "review": f"It is {n}"} for n in range(40)], ("review", "stars")),
        ([{"text": "one", "split": "train"}], ("text", None)),
        ([{"n": 1}], (None, "n")),
        ([], (None, None)),
    ],
)  # fmt: skip
def test_guesses(rows: list[Row], expected: tuple[str | None, str | None]) -> None:
    assert guess(describe(rows)) == expected


def test_what_is_said_of_a_column() -> None:
    rows: list[Row] = [{"a": " x\ny ", "b": 1, "c": None}, {"a": "zz", "b": 2.5, "c": float("nan")}, {"d": ["x"]}]
    assert [(each.name, each.type, each.rows, each.distinct, each.mean, each.example) for each in describe(rows)] == [
        ("a", "text", 2, 2, 3.5, "x y"),
        ("b", "number", 2, 2, 2.0, "1"),
        ("c", "empty", 0, 0, 0, ""),
        ("d", "list", 1, 1, 5.0, "['x']"),
    ]


@pytest.mark.parametrize(
    ("targets", "labels"),
    [
        (["b", "a"] * 5, ("a", "b")),
        (["b", "a"] * 4, None),  # fewer than five rows each
        (["a"] * 50, None),  # one answer to all
        ([str(number % 21) for number in range(1000)], None),  # 21 of them
        ([str(number % 20) for number in range(100)], tuple(sorted(map(str, range(20))))),
        (["a", "this one has six words, really"] * 9, None),
    ],
)
def test_few_short_repeated_targets_are_labels(targets: list[str], labels: tuple[str, ...] | None) -> None:
    assert found_labels((target,) for target in targets) == labels


def test_labels_that_are_written_in_two_ways_are_noted() -> None:
    written = [True, "true", "false", "No", "no ", 1, 1.0]
    task = Task.from_rows([{"input": f"row {n}", "output": written[n % 7]} for n in range(70)])
    assert task.card.labels == ("1", "1.0", "No", "True", "false", "no ", "true")
    said = "differ only in how they are written; if they are one class, write them alike in the data"
    assert task.notes[1:] == tuple(
        f"The labels {labels} {said}" for labels in ("'1', '1.0'", "'No', 'no '", "'True', 'true'")
    )


def test_whole_numbers_are_written_alike_whatever_the_column_is(tmp_path: Path) -> None:
    rows = [{"text": f"row {number}", "label": number % 2} for number in range(10)]
    frame = pd.DataFrame([*rows, {"text": "row without", "label": None}])
    frame[:10].to_parquet(tmp_path / "rows.parquet")
    assert frame["label"].dtype == "float64"
    for task in (
        Task.from_rows(frame[:10], input="text", target="label"),
        Task.from_rows(frame[:10], input="text", target="label", labels=["0", "1"]),
        Task.load(tmp_path / "rows.parquet", input="text", target="label"),
        Task.load(write(tmp_path / "rows.csv", rows), input="text", target="label"),
    ):
        assert task.card.labels == ("0", "1")
    scores = [row | {"label": value} for row, value in zip(rows, (0.5, *[1.0] * 9), strict=True)]
    half = Task.from_rows(scores, input="text", target="label", labels="none")
    assert {row.target for part in half.splits.values() for row in part} == {"0.5", "1.0"}


def test_no_label_is_empty() -> None:
    rows = [{"input": f"row {n}", "output": "yes" if n % 2 else "no"} for n in range(10)]
    with pytest.raises(TaskError, match="must be two or more different texts, none of them empty; correct them"):
        Task.from_rows(rows, labels=["yes", "no", ""])


def test_several_answers_are_no_labels() -> None:
    assert found_labels([("a", "b"), ("b",)] * 20) is None


def test_labels_are_not_inferred_against_somebodys_word(tmp_path: Path) -> None:
    rows = [{"input": f"row {number}", "output": str(number % 3)} for number in range(30)]
    assert Task.from_rows(rows).card.labels == ("0", "1", "2")
    assert Task.from_rows(rows, metric="Classification-F1").card.labels == ("0", "1", "2")
    for said in ({"labels": "none"}, {"options": "none"}, {"metric": "EM"}, {"metric": "Pearson"}):
        task = Task.from_rows(rows, **said)  # type: ignore[arg-type]
        assert (task.card.labels, task.card.options, task.notes) == (None, None, ())
    inline = [{"input": f"Which? {number} (A) 0 (B) 1 (C) 2", "output": str(number % 3)} for number in range(30)]
    assert Task.from_rows(inline).card.options == "inline"
    write(tmp_path / "train.csv", rows)
    for card in ({"labels": None}, {"labels": "none"}, {"options": None}):
        (tmp_path / "task.json").write_text(json.dumps(card))
        assert Task.load(tmp_path).card.labels is None
    with pytest.raises(SettingError, match=r"labels='0,1' is one text; give a list of labels, or \"none\" for open"):
        Task.from_rows(rows, labels="0,1")


@pytest.mark.parametrize(
    ("card", "message"),
    [
        ({"lables": ["no", "yes"]}, 'the key "lables" is not known; did you mean "labels"?'),
        ({"input_template": "{text}"}, 'the key "input_template" is not known; did you mean "input"?'),
        ({"template": {"inptu": "x"}}, 'the key "inptu" of "template" is not known; did you mean "input"?'),
        ({"template": {"zzz": "x"}}, 'the key "zzz" of "template" is not known; the keys are input, target, separator'),
        ({"template": {"input": "text"}, "input": "text"}, 'states "input" twice; remove it from "template"'),
        ({"template": "text"}, '"template" is not a JSON object; write it as {"input": …, "target": …}'),
    ],
)
def test_keys_of_task_json(tmp_path: Path, card: Row, message: str) -> None:
    write(tmp_path / "train.csv", tickets(20))
    (tmp_path / "task.json").write_text(json.dumps(card))
    with pytest.raises(TaskError, match=rf"task\.json.*{re.escape(message)}"):
        Task.load(tmp_path)


def test_keys_of_published_data_are_named_and_left_alone(tmp_path: Path) -> None:
    (tmp_path / "train.csv").write_text("input,output\n" + "\n".join(f"text {n},answer {n}" for n in range(20)))
    path = tmp_path / "task.json"
    path.write_text(json.dumps({"metric": "EM", "papers": ["A"], "license_evidence": "a letter", "seed": 0}))
    assert Task.load(tmp_path).notes == (f"{path} has keys that mean nothing here: papers, license_evidence, seed.",)


def test_csv_with_semicolons_is_read_where_spreadsheets_write_it(tmp_path: Path) -> None:
    path = tmp_path / "tickets.csv"
    lines = [f"T-{number};Text {number}, with a comma;{number % 2}" for number in range(10)]
    path.write_text("\n".join(["ticket_id;ticket_text;label_name", *lines]))
    task = Task.load(path, input="ticket_text", target="label_name")
    assert task.train[0].input.endswith(", with a comma")
    path.write_text("input,output\na;b,c\nd,e\nf,g\n")
    assert {row.input for rows in Task.load(path).splits.values() for row in rows} == {"a;b", "d", "f"}


def test_a_folder_with_one_file_of_another_name_says_to_give_the_file(tmp_path: Path) -> None:
    path = write(tmp_path / "tickets.csv", tickets(5))
    with pytest.raises(TaskError, match=rf"holds no task; it needs train, .* or give one file, such as {path}$"):
        Task.load(tmp_path)


def test_settings_of_a_single_file_are_beside_it(tmp_path: Path) -> None:
    path = write(tmp_path / "tickets.csv", tickets())
    (tmp_path / "tickets.task.json").write_text(
        '{"input": "{ticket_id}: {ticket_text}", "target": "label_name", "family": "desk", "remarks": "of May"}'
    )
    task = Task.load(path)
    assert task.train[0].input.startswith("T-00")
    assert (task.name, task.card.family) == ("tickets", "desk")


def test_a_folder_with_train_alone_is_split_like_a_file(tmp_path: Path) -> None:
    (tmp_path / "tickets").mkdir()
    write(tmp_path / "tickets" / "train.csv", tickets())
    task = Task.load(tmp_path / "tickets", input="ticket_text", target="label_name")
    assert sizes(task) == {"train": 120, "dev": 40, "test": 40}
    file = Task.load(tmp_path / "tickets" / "train.csv", input="ticket_text", target="label_name")
    assert file.splits == task.splits


def by_author(count: int, authors: int) -> list[Row]:
    return [row | {"author": f"author {number % authors}"} for number, row in enumerate(tickets(count))]


def groups(task: Task) -> dict[str, set[str | None]]:
    return {split: {row.group for row in rows} for split, rows in task.splits.items()}


@pytest.mark.parametrize("authors", [3, 7, 50, 200])
def test_splits_share_no_group(authors: int) -> None:
    task = Task.from_rows(by_author(200, authors), input="ticket_text", target="label_name", group="author")
    found = groups(task)
    assert len(found["train"] | found["dev"] | found["test"]) == sum(map(len, found.values())) == authors
    assert sum(sizes(task).values()) == 200
    if authors >= 50:  # many small groups leave the sizes as they are without any
        assert sizes(task) == {"train": 120, "dev": 40, "test": 40}


def test_groups_of_unequal_sizes_fill_the_splits_evenly() -> None:
    # one author wrote 40 of 100 rows, the others one each
    rows = [row | {"author": "ada" if number < 40 else None} for number, row in enumerate(tickets(100))]
    task = Task.from_rows(rows, input="ticket_text", target="label_name", group="author")
    assert sizes(task) == {"train": 60, "dev": 20, "test": 20}
    assert {split: Counter(row.group for row in part)["ada"] for split, part in task.splits.items()} == {
        "train": 40, "dev": 0, "test": 0,
    }  # fmt: skip


@pytest.mark.parametrize("count", [5, 23, 50, 100])
def test_every_class_has_its_share_of_every_split(count: int) -> None:
    rows = [row | {"label_name": "rare" if number % 10 == 0 else "often"} for number, row in enumerate(tickets(count))]
    for seed in range(3):
        task = Task.from_rows(rows, input="ticket_text", target="label_name", labels=["often", "rare"], seed=seed)
        assert sizes(task) == {"train": count - 2 * (count // 5), "dev": count // 5, "test": count // 5}
        found = {split: Counter(row.target for row in part) for split, part in task.splits.items()}
        for label, total in Counter(row["label_name"] for row in rows).items():
            for split, share in (("dev", 0.2), ("test", 0.2), ("train", 0.6)):
                assert abs(found[split][label] - share * total) <= 2, (split, label)
        assert count < 50 or all(found[split]["rare"] for split in found)


def test_classes_have_their_share_where_groups_stay_together() -> None:
    # 20 authors of 5 rows each, who always write of the same class; one class is three authors'
    rows = [
        row | {"author": f"author {number % 20}", "label_name": "rare" if number % 20 < 5 else "often"}
        for number, row in enumerate(tickets(100))
    ]
    for seed in range(5):
        task = Task.from_rows(rows, input="ticket_text", target="label_name", group="author", seed=seed)
        assert sizes(task) == {"train": 60, "dev": 20, "test": 20}
        found = {split: Counter(row.target for row in part)["rare"] for split, part in task.splits.items()}
        assert found == {"train": 15, "dev": 5, "test": 5}


def test_too_few_groups_and_groups_across_given_splits() -> None:
    with pytest.raises(TaskError, match="the list has 2 groups, too few for train, dev and test; add rows of other"):
        Task.from_rows(by_author(20, 2), input="ticket_text", target="label_name", group="author")
    both = {"train": by_author(20, 4), "dev": by_author(3, 3)}
    with pytest.raises(TaskError, match="group 'author 0' has rows in the splits train and dev, where what is learned"):
        Task.from_rows(splits=both, input="ticket_text", target="label_name", group="author")


def test_one_gap_in_a_column_of_whole_numbers_makes_no_other_groups(tmp_path: Path) -> None:
    # pandas reads 1, 2, nothing as 1.0, 2.0, NaN, and so does Parquet; the other split keeps 1 and 3.
    folder = tmp_path / "task"
    folder.mkdir()
    gap = pd.DataFrame({"input": ["a", "b", "c"], "output": ["x", "y", "x"], "author": [1, 2, None]})
    whole = pd.DataFrame({"input": ["d", "e"], "output": ["x", "y"], "author": [1, 3]})
    assert (str(gap["author"].dtype), str(whole["author"].dtype)) == ("float64", "int64")
    gap.to_parquet(folder / "train.parquet")
    whole.to_parquet(folder / "dev.parquet")
    message = "group '1' has rows in the splits train and dev"
    for read in (lambda: Task.load(folder, group="author"), lambda: in_memory(train=gap, dev=whole)):
        with pytest.raises(TaskError, match=message):
            read()
    assert groups(in_memory(train=gap, dev=whole[1:]))["train"] == {"1", "2", None}


def in_memory(**splits: pd.DataFrame) -> Task:
    return Task.from_rows(splits=splits, input="input", target="output", group="author")


def test_few_shot_dev_is_filled_up_from_train() -> None:
    task = Task.from_rows(tickets(), input="ticket_text", target="label_name")
    few = task.few_shot(k=16)
    assert (
        Counter(row.target for row in few.train) == Counter(row.target for row in few.dev) == dict.fromkeys(CLASSES, 16)
    )
    assert not set(few.train) & set(few.dev)
    assert not (set(few.train) | set(few.dev)) & set(few.test)
    own = len(set(few.dev) & set(task.dev))
    assert few.notes[-1] == (
        f"dev has {own} of the 64 rows to draw; {64 - own} rows for dev were drawn from the rest of train"
    )
    assert own == sum(min(16, count) for count in Counter(row.target for row in task.dev).values())


def test_few_shot_without_a_dev_split_says_so() -> None:
    task = Task.from_rows(splits={"train": tickets(80)[:60], "test": tickets(80)[60:]}, input="ticket_text",
                          target="label_name", labels=CLASSES)  # fmt: skip
    few = task.few_shot(k=4)
    assert few.notes == ("there is no dev split; 16 rows for dev were drawn from the rest of train",)


def test_few_shot_train_and_dev_share_no_group() -> None:
    task = Task.from_rows(by_author(400, 100), input="ticket_text", target="label_name", group="author")
    few = task.few_shot(k=24, seed=1)
    found = groups(few)
    assert not found["train"] & found["dev"]
    assert {row.group for row in few.dev} & {row.group for row in task.train}  # some did come from train


@pytest.mark.parametrize("name", ["tune", "rank", "ensemble", "compare", "fit", "evaluate", "search"])
def test_in_the_command_line_every_command_takes_the_columns(name: str, tmp_path: Path, run: Run) -> None:
    path = write(tmp_path / "tickets.csv", tickets(60))
    words = [name, *(["none"] if name == "evaluate" else []), path, "--backbone", "nowhere"]
    if name not in ("tune", "evaluate"):
        Hub.create(tmp_path / "hub")
        words += ["--hub", tmp_path / "hub"]
    if name not in ("rank", "evaluate", "search"):
        words += ["-o", tmp_path / "out"]
    ended = run(*words)
    assert_mistake(
        ended, "(columns: ticket_id, ticket_text, label_name); write --input ticket_text --target label_name"
    )
    columns = ["--input", "ticket_text", "--target", "label_name"]
    for more in ([], ["--labels", "billing, delivery,login,refund"], ["--group", "ticket_id"]):
        ended = run(*words, *columns, *more)
        assert ended.code == 2
        assert ("are taken for labels" in ended.err) == ("--labels" not in more)
        assert "nowhere" in ended.err.splitlines()[-1]
    ended = run(*words, *columns, "--labels", "billing,login")
    assert_mistake(ended, "tickets.csv, line 3: the target 'delivery' is not one of the labels (billing, login)")


def test_an_example_that_was_cut_ends_in_an_ellipsis() -> None:
    long, blank = describe([{"long": "word " * 20, "blank": "a" + " " * 300 + "b"}])
    assert long.example == "word " * 11 + "word…"
    assert blank.example == "a…"
    (whole,) = describe([{"whole": "x" * 60}])
    assert whole.example == "x" * 60
