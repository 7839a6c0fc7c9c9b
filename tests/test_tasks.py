"""Tasks: cards, templates, options, labels, splits, fingerprints and what goes wrong with them."""

import json
import time
from dataclasses import FrozenInstanceError, replace
from pathlib import Path
from typing import Any

import pytest

from headstart.errors import CardError, SettingError, TaskError
from headstart.records import TaskCard
from headstart.tasks import Example, Task
from headstart.tasks.options import inline_options
from headstart.tasks.template import FieldTemplate
from headstart.units.canonical import canonical

ROWS = [{"input": f"row {number}", "output": ["no", "yes"][number % 2]} for number in range(10)]


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def folder(path: Path, *, card: dict[str, Any] | None = None, **splits: list[dict[str, Any]]) -> Path:
    for split, rows in (splits or {"train": ROWS, "dev": ROWS[:2]}).items():
        write(path / f"{split}.jsonl", rows)
    if card is not None:
        (path / "task.json").write_text(json.dumps(card), encoding="utf-8")
    return path


def test_example_is_frozen_and_its_target_is_the_first_output() -> None:
    example = Example("in", ("first", "second"))
    assert (example.target, example.options) == ("first", None)
    with pytest.raises(FrozenInstanceError):
        example.input = "other"  # type: ignore[misc]


def test_a_group_is_in_no_hash() -> None:
    alone, together = Example("in", ("out",)), Example("in", ("out",), group="ada")
    assert alone != together
    assert alone.to_json() == together.to_json() == '["in",["out"],null]'
    assert canonical(alone) == canonical(together)


def test_a_row_knows_where_it_was_read_and_is_no_other_row_for_it(tmp_path: Path) -> None:
    table = tmp_path / "rows.csv"
    table.write_text("text,label\n" + "".join(f"row {number},{'ny'[number % 2]}\n" for number in range(10)))
    rows = Task.load(table, input="text", target="label").rows("all")
    assert [(row.input, row.where) for row in rows] == [(f"row {n}", f"{table}, line {n + 2}") for n in range(10)]
    bare = replace(rows[0], where="")
    assert (bare == rows[0], hash(bare) == hash(rows[0]), bare.to_json() == rows[0].to_json()) == (True, True, True)
    assert canonical([bare]) == canonical([rows[0]])
    assert "line" not in repr(rows[0])


def test_missing_split_names_what_there_is(tmp_path: Path) -> None:
    task = Task.load(folder(tmp_path / "t", train=ROWS, test=ROWS))
    assert len(task.train) == len(task.test) == 10
    with pytest.raises(
        TaskError, match=r"task 't' has no split 'dev' \(it has: train, test\); add a dev file"
    ) as caught:
        _ = task.dev
    assert str(caught.value).endswith(", or draw few rows with few_shot(k=16), which takes dev from train")
    assert caught.value.on_command_line.endswith(", or draw few rows with --shots 16, which takes dev from train")


def test_card_of_a_folder_takes_what_it_knows_and_leaves_the_rest(tmp_path: Path) -> None:
    card = {
        "name": "nice",
        "family": "NLI",
        "metric": "Classification-F1",
        "labels": ["no", "yes"],
        "license": "MIT (repository)",
        "dataset_license": "CC BY 4.0",
        "source": [{"repo": "somewhere"}],
        "remarks": "",
        "rows": {"train": 10},
    }
    task = Task.load(folder(tmp_path / "t", card=card))
    assert task.card == TaskCard(
        name="nice",
        family="NLI",
        metric="Classification-F1",
        labels=("no", "yes"),
        options="labels",
        license="CC BY 4.0",
        source=str(tmp_path / "t"),
    )
    assert task.train[1] == Example("row 1", ("yes",), ("no", "yes"))


def test_arguments_go_before_task_json(tmp_path: Path) -> None:
    path = folder(tmp_path / "t", card={"name": "old", "family": "old", "metric": "EM", "license": "MIT"})
    task = Task.load(
        path, name="new", family="new", metric="Pearson", labels=["no", "yes", "maybe"], input="Q: {input}"
    )
    assert (task.name, task.card.family, task.card.metric) == ("new", "new", "Pearson-Correlation")
    assert (task.card.labels, task.card.license) == (("no", "yes", "maybe"), "MIT")
    assert (task.card.template.input, task.card.template.target) == ("Q: {input}", "{output}")
    assert task.train[0].input == "Q: row 0"


def test_defaults_without_a_card(tmp_path: Path) -> None:
    path = folder(tmp_path / "mine")
    task = Task.load(path, labels="none")
    assert (task.name, task.card.metric, task.card.options) == ("mine", "EM", None)
    assert Task.load(path, labels=["no", "yes"]).card.metric == "ACC"


def test_a_card_that_headstart_wrote_reads_back(tmp_path: Path) -> None:
    task = Task.load(folder(tmp_path / "t"), labels=["no", "yes"], options="none", input="Q: {input}")
    task.card.write(tmp_path / "t" / "task.json")
    again = Task.load(tmp_path / "t")
    assert (again.card, again.splits) == (task.card, task.splits)
    assert again.train[0].options is None


@pytest.mark.parametrize(("text", "message"), [("[]", "is not a JSON object"), ("{", "cannot read .*task.json")])
def test_malformed_task_json(tmp_path: Path, text: str, message: str) -> None:
    (folder(tmp_path / "t") / "task.json").write_text(text)
    with pytest.raises(TaskError, match=message):
        Task.load(tmp_path / "t")


def test_task_json_with_a_malformed_field(tmp_path: Path) -> None:
    with pytest.raises(CardError, match=r"task\.json: field 'labels': .*; correct that field"):
        Task.load(folder(tmp_path / "t", card={"labels": "yes"}))


def test_unknown_metric_and_options_are_settings_errors(tmp_path: Path) -> None:
    path = folder(tmp_path / "t")
    with pytest.raises(SettingError, match=r"unknown metric 'acc'; .* did you mean 'ACC'"):
        Task.load(path, metric="acc")
    with pytest.raises(
        SettingError, match="unknown source of options 'row'; choose one of: labels, field, inline, none"
    ):
        Task.load(path, options="row")


@pytest.mark.parametrize("labels", [["yes"], ["yes", "yes"], []])
def test_labels_must_be_two_or_more_different_ones(tmp_path: Path, labels: list[str]) -> None:
    with pytest.raises(TaskError, match=r"task 't': labels \[.*\] must be two or more different texts"):
        Task.load(folder(tmp_path / "t"), labels=labels)


def test_labels_as_one_text(tmp_path: Path) -> None:
    with pytest.raises(SettingError, match="labels='no,yes' is one text; give a list of labels"):
        Task.load(folder(tmp_path / "t"), labels="no,yes")


def test_target_outside_the_labels_names_the_line(tmp_path: Path) -> None:
    path = folder(tmp_path / "t", train=[*ROWS, {"input": "x", "output": "maybe"}])
    with pytest.raises(
        TaskError, match=r"train\.jsonl, line 11: the target 'maybe' is not one of the labels \(no, yes\)"
    ):
        Task.load(path, labels=["no", "yes"])


def test_missing_field_names_line_field_and_fields_there(tmp_path: Path) -> None:
    path = folder(tmp_path / "t", train=[*ROWS, {"text": "x", "output": "yes"}])
    with pytest.raises(
        TaskError,
        match=r"train\.jsonl, line 11: field 'input' is missing \(fields present: text, output\); fill it in",
    ):
        Task.load(path)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"input": "x", "output": []}, "the target is empty"),
        ({"input": "x", "output": ["a", " "]}, "the target is empty"),
        ({"input": " ", "output": "a"}, "the input is empty"),
        ({"input": "x", "output": None}, "field 'output' has no value; fill it in or remove the row"),
        ({"input": "x", "output": float("nan")}, "field 'output' has no value"),
        (
            {"input": ["x"], "output": "a"},
            r"field 'input' is a list, not a text; name one element, as in \{input\[0\]\}",
        ),
        ({"input": "x", "output": [{"a": 1}]}, "field 'output' is a dict, not a text"),
        ({"input": "x\ud800", "output": "a"}, "half a surrogate pair"),
        ({"input": "x", "output": "a", "options": ["a", "x\ud83d"]}, "half a surrogate pair"),
    ],
)
def test_row_that_gives_no_text(tmp_path: Path, row: dict[str, Any], message: str) -> None:
    with pytest.raises(TaskError, match=rf"train\.jsonl, line 1: .*{message}"):
        Task.load(folder(tmp_path / "t", train=[row]))


def test_outputs_may_be_a_list_a_text_or_a_number(tmp_path: Path) -> None:
    rows = [{"input": "a", "output": ["x", "y"]}, {"input": "b", "output": "z"}, {"input": "c", "output": 3}]
    path = folder(tmp_path / "t", train=rows, dev=rows)
    assert [row.outputs for row in Task.load(path).train] == [("x", "y"), ("z",), ("3",)]


def test_templates_reach_into_fields_but_not_into_python() -> None:
    row = {"q": "Is it?", "answers": {"text": ["yes", "yep"]}, "a.b": "dotted", "choices": ["one", "two"], "n": 0.12345}
    assert (
        FieldTemplate("{q} {choices[1]} {a.b} {n:.2f} {q!r} {{}}").text(row, where="here")
        == "Is it? two dotted 0.12 'Is it?' {}"
    )
    assert FieldTemplate("{answers[text]}").texts(row, where="here") == ("yes", "yep")
    assert FieldTemplate("it is {q}").texts(row, where="here") == ("it is Is it?",)
    for hostile in ("{q.__class__}", "{choices[7]}", "{answers[label]}", "{q[x]}"):
        with pytest.raises(TaskError, match=r"here: field '.*' is missing"):
            FieldTemplate(hostile).text(row, where="here")


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ("{input", "template '{input': .*; write a brace that is text twice"),
        ("{}", "'{}' names no field; write {name}"),
        ("{a[}", "template '{a\\[}'"),
    ],
)
def test_malformed_template(tmp_path: Path, template: str, message: str) -> None:
    with pytest.raises(TaskError, match=message):
        Task.load(folder(tmp_path / "t"), input=template)


def test_template_with_a_format_that_does_not_fit(tmp_path: Path) -> None:
    with pytest.raises(TaskError, match=r"line 1: template '\{input:d\}': .*; correct the template"):
        Task.load(folder(tmp_path / "t"), input="{input:d}")


@pytest.mark.parametrize(
    ("text", "options"),
    [
        ("What? (A) one (B) two", ("one", "two")),
        ("What?(A)one(B)two [SEP] A passage (A) of its own", ("one", "two")),
        ("What? [SEP] passage [SEP]  (A) one . (B) two . (C) three .", ("one .", "two .", "three .")),
        ("[header] x (A) [substeps] one (B) two", ("[substeps] one", "two")),
        ("(A) vitamin (D) is good (B) two", ("vitamin (D) is good", "two")),
        ("see (A) above (A) one (B) two", ("one", "two")),
        ("see (A) and (B) above (A) one (B) two (C) three", ("one", "two", "three")),
        ("Only (A) one", None),
        ("Small (a) one (b) two", None),
        ("", None),
    ],
)
def test_inline_options(text: str, options: tuple[str, ...] | None) -> None:
    assert inline_options(text) == options


CHOICES = [
    {"input": "Which? (A) red (B) blue", "output": "blue"},
    {"input": "Who? (A) Ann (B) Bob (C) Ann", "output": "Ann"},
]


def test_inline_options_are_found_where_every_row_has_them(tmp_path: Path) -> None:
    task = Task.load(folder(tmp_path / "t", train=CHOICES))
    assert task.card.options == "inline"
    assert [row.options for row in task.train] == [("red", "blue"), ("Ann", "Bob")]


def test_one_row_that_does_not_fit_leaves_the_answers_open(tmp_path: Path) -> None:
    odd = {"input": "Which? (A) red (B) blue", "output": "green"}
    task = Task.load(folder(tmp_path / "t", train=CHOICES, test=[odd]))
    assert task.card.options is None
    assert {row.options for row in (*task.train, *task.test)} == {None}
    with pytest.raises(
        TaskError, match=r"test\.jsonl, line 1: the target 'green' is not one of its options \('red', 'blue'\)"
    ):
        Task.load(tmp_path / "t", options="inline")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("inline", r"line 1: the input lists no '\(A\) … \(B\) …'; correct the row or set options=\"none\""),
        ("field", "line 1: the row's 'options' is not a list of texts"),
        ("labels", "line 1: options come from the labels, but the task has none"),
    ],
)
def test_options_that_are_not_there(tmp_path: Path, options: str, message: str) -> None:
    with pytest.raises(TaskError, match=message):
        Task.load(folder(tmp_path / "t"), options=options)


def test_options_of_the_rows_own_field(tmp_path: Path) -> None:
    rows = [{"input": "a", "output": "1", "options": [1, 2]}, {"input": "b", "output": "x", "options": ["x", "y", "x"]}]
    task = Task.load(folder(tmp_path / "t", train=rows))
    assert task.card.options == "field"
    assert [row.options for row in task.train] == [("1", "2"), ("x", "y")]
    assert Task.load(tmp_path / "t", options="none").train[0].options is None


def test_null_options_in_task_json_mean_open_answers(tmp_path: Path) -> None:
    assert Task.load(folder(tmp_path / "t", card={"options": None}, train=CHOICES)).card.options is None
    assert Task.load(tmp_path / "t", options="inline").card.options == "inline"


def test_fingerprint_is_of_content_and_format_only(tmp_path: Path) -> None:
    task = Task.load(folder(tmp_path / "t", train=ROWS, dev=ROWS, test=ROWS[:9]), labels="none")
    same = replace(task, card=task.card.model_copy(update={"name": "other", "license": "MIT"}))
    assert task.fingerprint("train") == same.fingerprint("train") == task.fingerprint("dev")
    others = [
        replace(task, card=task.card.model_copy(update={"metric": "ACC"})).fingerprint("train"),
        replace(task, card=task.card.model_copy(update={"labels": ("no", "yes")})).fingerprint("train"),
        Task.load(tmp_path / "t", input="Q: {input}", labels="none").fingerprint("train"),
        replace(task, splits={"train": task.train[::-1]}).fingerprint("train"),
        task.fingerprint("test"),
    ]
    assert len({task.fingerprint("train"), *others}) == 6
    with pytest.raises(TaskError, match="no split 'validation'"):
        task.fingerprint("validation")


def test_fingerprint_does_not_run_rows_together() -> None:
    card = TaskCard(name="t")
    one = Task(card, {"train": (Example("a", ("b", "c")),)})
    two = Task(card, {"train": (Example("a", ("b",), ("c",)),)})
    assert one.fingerprint("train") != two.fingerprint("train")


@pytest.mark.parametrize(
    "spec", [">99999999999", ">1000000000", ".999999999f", "{width}", "%1000000000Y", "x>>5", "n" * 50, "100", ".100f"]
)
def test_a_format_that_could_ask_for_any_amount_of_memory(spec: str) -> None:
    with pytest.raises(TaskError, match=r"template .*: the format '.*' of field 'n' is not a plain one of width and"):
        FieldTemplate(f"{{n:{spec}}}")


def test_formats_of_small_width_are_kept() -> None:
    row = {"n": 1234.5, "q": "hi"}
    made = FieldTemplate("{n:,.1f}|{n:>9.2f}|{n:+.0f}|{n:e}|{q:^6}|{q!s:<4}|{n:09.1f}|{n:.1%}").text(row, where="here")
    assert made == "1,234.5|  1234.50|+1234|1.234500e+03|  hi  |hi  |0001234.5|123450.0%"


def test_long_templates_and_texts(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(TaskError, match=r"is longer than 10,000 characters; shorten it"):
        FieldTemplate("{q}" * 4000)
    monkeypatch.setattr("headstart.tasks.template.LONGEST_TEXT", 100)
    assert FieldTemplate("{q}").text({"q": "x" * 100}, where="here") == "x" * 100
    with pytest.raises(TaskError, match=r"here: the text is longer than 100 characters; shorten the row"):
        FieldTemplate("{q}{q}").text({"q": "x" * 51}, where="here")


def test_many_markers_take_no_longer_than_their_number() -> None:
    start = time.process_time()
    assert inline_options("(A)" * 200_000) is None
    assert inline_options("(A)" * 200_000 + "x (B) y") == ("x", "y")
    assert time.process_time() - start < 5


def test_too_many_options(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("headstart.tasks.options.MOST_OPTIONS", 2)
    rows = [{"input": "a", "output": "1", "options": ["1", "2", "3"]}]
    with pytest.raises(TaskError, match=r"line 1: 3 options, where at most 2 can be; set options=\"none\""):
        Task.load(folder(tmp_path / "t", train=rows))
