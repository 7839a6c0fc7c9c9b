"""`headstart task` and what it shows: every number by hand."""

import json
import math
from pathlib import Path

import pytest

from encoders import encoder
from headstart.backbones import Backbone
from headstart.errors import SettingError
from headstart.records import TextFormat
from headstart.tasks import Task
from headstart.tasks.columns import source_columns
from headstart.tasks.inspecting import inspect_task
from headstart.tasks.settings import write_settings
from program import Run, assert_mistake
from test_light import heavy_after
from test_light import program as statement
from test_own_data import CLASSES, tickets, write

pytest_plugins = ["cli_helper"]
NAMED = {"input": "ticket_text", "target": "label_name"}
COLUMNS = ["--input", "ticket_text", "--target", "label_name"]


def small() -> Task:
    """Three classes; "same" is in both splits, twice in train, and once with another answer."""
    train = [("same", "a"), ("same", "a"), ("one", "a"), ("two", "b"), ("three", "c")]
    test = [("same", "b"), ("four", "a"), ("five", "b"), ("six", "c")]
    rows = {
        split: [{"input": text, "output": target} for text, target in part]
        for split, part in (("train", train), ("test", test))
    }
    return Task.from_rows(splits=rows, labels=["a", "b", "c"], name="small")


def test_splits_classes_and_problems() -> None:
    found = inspect_task(small())
    assert found.splits.to_dict("records") == [
        {"split": "train", "rows": 5, "distinct inputs": 4}, {"split": "test", "rows": 4, "distinct inputs": 4},
    ]  # fmt: skip
    assert found.classes.set_index("label").to_dict("index") == {
        "a": {"train": 3, "test": 1}, "b": {"train": 1, "test": 2}, "c": {"train": 1, "test": 1},
    }  # fmt: skip
    assert found.problems.to_dict("records") == [
        {"problem": "repeated input", "splits": "train", "inputs": 1, "example": "same"},
        {"problem": "different answers", "splits": "all", "inputs": 1, "example": "same"},
        {"problem": "in two splits", "splits": "train, test", "inputs": 1, "example": "same"},
    ]


def test_what_guessing_scores() -> None:
    found = inspect_task(small()).guesses.set_index("metric")
    assert list(found.index) == ["ACC", "Classification-F1", "Matthew-Correlation"]
    assert found.loc["ACC", "chance"] == pytest.approx(1 / 3)
    assert found.loc["ACC", "majority"] == 0.25  # always "a", and one of four rows is
    # macro F1 of always "a": a has 1 hit of 1 target and 4 answers, 2·1/5; b and c have none
    assert found.loc["Classification-F1", "majority"] == pytest.approx(0.4 / 3)
    assert set(found["split"]) == {"test"}


def test_open_answers_have_no_chance() -> None:
    rows = [{"input": f"row {number}", "output": f"answer {number}"} for number in range(20)]
    (guess,) = inspect_task(Task.from_rows(rows)).guesses.to_dict("records")
    assert math.isnan(guess["chance"])
    assert guess["metric"] == "EM"
    assert "there are no options to guess among" in guess["note"]


def test_texts_without_a_backbone_are_as_a_language_model_reads_them() -> None:
    found = inspect_task(small())
    assert found.prompts.to_dict("records") == [
        {"split": "train", "prompt": "same\nAnswer:", "target": " a"},
        {"split": "train", "prompt": "two\nAnswer:", "target": " b"},
    ]
    rows = found.lengths.set_index("text").to_dict("index")
    # same same one two three same four five six
    assert rows["input"] == {"unit": "characters", "rows": 9, "median": 4, "95 %": pytest.approx(4.6), "longest": 5}
    assert rows["target"]["longest"] == 1


def test_tokens_are_those_of_the_backbone(llama: Backbone) -> None:
    task = small()
    whole = [len(llama.encoder.prompt(row.input, TextFormat())) for part in task.splits.values() for row in part]
    found = inspect_task(task, backbone=llama, text_format=TextFormat(max_input=max(whole) - 1))
    (row, _), ids = found.prompts.to_dict("records"), llama.encoder.prompt("same", TextFormat())
    assert (row["prompt"], row["prompt_tokens"]) == (llama.tokenizer.decode(ids), len(ids))
    rows = found.lengths.set_index("text").to_dict("index")
    assert rows["input"]["longest"] == max(whole)
    assert rows["input"]["longest read"] == max(whole) - 1
    assert rows["input"]["cut"] == whole.count(max(whole))
    assert (rows["target"]["unit"], rows["target"]["cut"]) == ("tokens", 0)


def test_a_layout_without_a_backbone() -> None:
    found = inspect_task(small(), text_format=TextFormat(prefix="Text: ", suffix=" ="))
    assert list(found.prompts["prompt"]) == ["Text: same =", "Text: two ="]
    with pytest.raises(SettingError, match=r"give backbone=, or leave out chat_template$") as caught:
        inspect_task(small(), text_format=TextFormat(chat_template=True))
    assert caught.value.on_command_line.endswith("; give --backbone, or leave out --chat")


def test_the_command_lays_out_and_cuts_as_the_recipe_says(tmp_path: Path, run: Run, here: dict[str, list[str]]) -> None:
    path = write(tmp_path / "tickets.csv", tickets(20))
    shown = run("task", path, *COLUMNS, "--prefix", "Text: ", "--suffix", r"\nKind:", "--json").data
    assert shown["prompts"][0]["prompt"] == f"Text: {Task.load(path, **NAMED).train[0].input}\nKind:"
    run("task", path, *COLUMNS, "--write")
    assert_mistake(run("task", path, "--chat", "--json"), "give --backbone, or leave out --chat")
    long = write(tmp_path / "long.csv", [row | {"ticket_text": "warm " * 100} for row in tickets(20)])
    read = {
        recipe: run("task", long, *COLUMNS, *here["on"], "--recipe", recipe, "--json").data["lengths"][0]
        for recipe in ("few-shot", "quick")
    }
    # the standard reads 512 tokens, and quick 256
    assert {recipe: (row["longest read"], row["cut"]) for recipe, row in read.items()} == {
        "few-shot": (read["quick"]["longest"], 0), "quick": (256, 20),
    }  # fmt: skip
    fewer = run("task", long, *COLUMNS, *here["on"], "--set", "max_input=9", "--json").data["lengths"][0]
    assert (fewer["longest read"], fewer["cut"]) == (9, 20)


def test_every_family_of_backbones_reads_a_task(t5: Backbone) -> None:
    task = small()
    whole = inspect_task(task, backbone=t5)
    assert whole.prompts["prompt"][0].startswith("same")
    assert list(whole.lengths["text"]) == ["input", "target"]
    bert = encoder("bert")
    found = inspect_task(task, backbone=bert, text_format=TextFormat(max_input=3))
    row = found.prompts.to_dict("records")[0]
    assert (row["prompt_tokens"], row["target"]) == (3, "a")
    assert found.lengths["cut"].tolist() == [sum(length > 3 for length in lengths_of(bert, task))]


def lengths_of(backbone: Backbone, task: Task) -> list[int]:
    return [len(backbone.tokenizer(row.input)["input_ids"]) for part in task.splits.values() for row in part]


def test_groups_are_counted() -> None:
    rows = [row | {"author": f"{number // 10}"} for number, row in enumerate(tickets(100))]
    task = Task.from_rows(rows, input="ticket_text", target="label_name", group="author")
    assert inspect_task(task).splits["groups"].sum() == 10


def test_the_command_shows_it_and_saves_the_settings(tmp_path: Path, run: Run) -> None:
    path = write(tmp_path / "tickets.csv", tickets())
    shown = run("task", path, *COLUMNS)
    assert shown.out.startswith("tickets: 120 train, 40 dev, 40 test; ACC; 4 labels\n")
    for part in (
        "ticket_id",
        "What guessing scores",
        "Chance: a uniform guess among 4 options.",
        "please help\nAnswer:",
    ):
        assert part in shown.out
    saved = run("task", path, *COLUMNS, "--write")
    settings = tmp_path / "tickets.task.json"
    assert saved.out.endswith(f"Saved {settings}: {path} needs no options now.\n")
    assert json.loads(settings.read_text()) == {
        "name": "tickets", "metric": "ACC", "labels": list(CLASSES), "options": "labels", "input": "ticket_text",
        "target": "label_name",
    }  # fmt: skip
    again = run("task", path, "--write", "--json")
    assert again.err == "", "nothing is inferred any more"
    assert again.data["card"]["labels"] == list(CLASSES)
    assert again.data["written"] == str(settings)
    assert [row["rows"] for row in again.data["splits"]] == [120, 40, 40]
    assert again.data["columns"][2] == {
        "column": "label_name", "type": "text", "rows": 200, "distinct": 4, "example": "billing",
    }  # fmt: skip
    other = run("task", path, "--input", "ticket_id", "--write")
    assert other.code == 2
    assert other.err.endswith(
        "tickets.task.json exists and says something else; remove it first, or correct it by hand\n"
    )


def test_two_classes_are_shown_if_there_are_two() -> None:
    rows = [{"input": f"row {number}", "output": "ab"[number > 7]} for number in range(10)]
    found = inspect_task(Task.from_rows(splits={"train": rows}))
    assert set(found.prompts["target"]) == {" a", " b"}
    alike = inspect_task(
        Task.from_rows(splits={"train": [{"input": f"row {number}", "output": "a"} for number in range(9)]})
    )
    assert list(alike.prompts["target"]) == [" a", " a"]
    assert alike.prompts["prompt"].nunique() == 2


def test_labels_without_options_are_saved_as_such(tmp_path: Path) -> None:
    path = write(tmp_path / "tickets.csv", tickets(20))
    task = Task.load(path, input="ticket_text", target="label_name", labels=CLASSES, options="none")
    assert task.card.options is None
    write_settings(task.card, path)
    again = Task.load(path)
    assert (again.card.labels, again.card.options) == (CLASSES, None)
    assert again.fingerprint("test") == task.fingerprint("test")


def test_open_answers_are_saved_as_such(tmp_path: Path, run: Run) -> None:
    path = write(tmp_path / "train.csv", tickets(20))
    run("task", tmp_path, *COLUMNS, "--labels", "none", "--group", "ticket_id", "--write")
    assert json.loads((tmp_path / "task.json").read_text()) == {
        "name": tmp_path.name, "metric": "EM", "labels": None, "group": "ticket_id", "input": "ticket_text",
        "target": "label_name",
    }  # fmt: skip
    assert Task.load(tmp_path).card.labels is None
    assert path.exists()


def test_columns_are_shown_of_a_file_that_is_not_understood(tmp_path: Path, run: Run) -> None:
    path = write(tmp_path / "tickets.csv", tickets(20))
    shown = run("task", path)
    assert "T-0000" in shown.out
    assert "┃ column " in shown.out
    assert shown.code == 2
    assert shown.err.endswith("write --input ticket_text --target label_name\n")
    assert_mistake(run("task", path, "--json"), "write --input ticket_text --target label_name")


def test_an_id_has_no_folder_for_settings() -> None:
    from headstart.errors import TaskError
    from headstart.tasks.settings import write_settings

    with pytest.raises(TaskError, match="owner/name is no file or folder that settings could be written beside"):
        write_settings(small().card, "owner/name")


def test_columns_are_of_all_splits(tmp_path: Path) -> None:
    write(tmp_path / "train.csv", tickets(20))
    write(tmp_path / "dev.csv", [row | {"more": "x"} for row in tickets(4)])
    assert [(column.name, column.rows) for column in source_columns(tmp_path)] == [
        ("ticket_id", 24), ("ticket_text", 24), ("label_name", 24), ("more", 4),
    ]  # fmt: skip


def test_looking_needs_no_torch(tmp_path: Path) -> None:
    path = write(tmp_path / "tickets.csv", tickets(60))
    assert not {"torch", "transformers", "peft"} & set(heavy_after(statement("task", str(path), *COLUMNS)))


def test_a_file_with_a_header_alone_has_no_rows(tmp_path: Path, run: Run) -> None:
    (tmp_path / "head.csv").write_text("ticket_text,team\n", encoding="utf-8")
    assert_mistake(run("task", tmp_path / "head.csv"), "head.csv has no rows; add some, or remove the file")
