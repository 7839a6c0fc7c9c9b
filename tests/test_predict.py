"""Rows without targets: read as the module's task was, answered as an evaluation answers, and written."""

import json
import math
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from scipy.special import softmax

from encoder_tasks import RECIPE as ENCODER_RECIPE
from encoder_tasks import a_task
from encoders import encoder
from headstart.backbones import Backbone
from headstart.errors import SettingError, TaskError
from headstart.evaluating.evaluate import evaluate
from headstart.evaluating.predict import CHUNK, predict
from headstart.events import Event, Progress
from headstart.kinds import Module, load_module, save_module
from headstart.records import Calibration, Template
from headstart.tasks import Task
from headstart.tuning.tune import tune
from program import Run, assert_mistake
from small_hub import RECIPE, module, write_task

pytest_plugins = ["cli_helper"]

LABELS = ("negative", "positive")
BATCH = Calibration(method="batch", offsets={"negative": -3.0, "positive": -40.0})


@pytest.fixture(scope="module")
def task(tmp_path_factory: pytest.TempPathFactory) -> Task:
    return Task.load(write_task(tmp_path_factory.mktemp("predicted") / "reviews"))


def answering(backbone: Backbone, **card: Any) -> Module:
    """A module whose card says what a tuned one's says."""
    known = {"template": Template(), "labels": LABELS, "options": "labels", "metric": "ACC", "task": "reviews"}
    return module(backbone, "ada", seed=1, **{**known, **card})


def plain_rows(task: Task) -> list[dict[str, Any]]:
    return [{"id": number, "input": row.input} for number, row in enumerate(task.test)]


@pytest.mark.parametrize("calibration", [None, Calibration(method="length"), BATCH])
def test_a_prediction_is_what_an_evaluation_finds(task: Task, llama: Backbone, calibration: Calibration | None) -> None:
    tuned = answering(llama, calibration=calibration)
    expected = evaluate(tuned, task, llama, store=False)
    found = predict(tuned, plain_rows(task), llama)
    assert list(found.columns) == ["id", "input", "label", "probability"]
    assert tuple(found["label"]) == expected.predictions
    assert list(found["probability"]) == pytest.approx(list(expected.frame()["probability"]))
    uncalibrated = predict(tuned, plain_rows(task), llama, calibrated=False)
    assert tuple(uncalibrated["label"]) == expected.uncalibrated


def test_probabilities_are_the_softmax_of_calibrated_likelihoods(task: Task, llama: Backbone) -> None:
    tuned = answering(llama, calibration=BATCH)
    raw = evaluate(tuned, task, llama, calibration="none", store=False)
    found = predict(tuned, plain_rows(task), llama, every=True)
    for row, (negative, positive) in enumerate(raw.scores):
        expected = softmax([negative + 3.0, positive + 40.0])
        assert found.loc[row, ["probability_negative", "probability_positive"]].tolist() == pytest.approx(expected)


def test_it_does_not_depend_on_the_other_rows(task: Task, llama: Backbone) -> None:
    tuned, rows = answering(llama, calibration=BATCH), plain_rows(task)
    whole = predict(tuned, rows, llama)
    alone = [predict(tuned, [row], llama)["probability"][0] for row in rows]
    assert list(whole["probability"]) == pytest.approx(alone, abs=1e-5)
    heard: list[Event] = []
    many = predict(tuned, rows * 30, llama, progress=heard.append)
    assert len(many) == 30 * len(rows) > CHUNK
    assert list(many["label"]) == list(whole["label"]) * 30
    assert [event.done for event in heard if isinstance(event, Progress)] == [CHUNK, len(many)]


def test_columns_stay_and_are_never_overwritten(task: Task, llama: Backbone) -> None:
    frame = pd.DataFrame({"input": [row.input for row in task.test], "label": "old", "note": [None] * len(task.test)})
    found = predict(answering(llama), frame, llama)
    assert list(found.columns) == ["input", "label", "note", "predicted_label", "probability"]
    assert set(found["label"]) == {"old"}
    with pytest.raises(TaskError, match="row 2: the row has a column 'label', which the prediction needs; rename it"):
        predict(answering(llama), [{"input": "a"}, {"input": "b", "label": "x"}], llama)


def test_the_card_s_template_makes_the_input(llama: Backbone) -> None:
    tuned = answering(llama, template=Template(input="{title}: {text}", target="{kind}"))
    found = predict(tuned, [{"title": "a", "text": "is warm"}], llama)
    expected = predict(answering(llama), [{"input": "a: is warm"}], llama)
    assert found["probability"].tolist() == expected["probability"].tolist()
    other = predict(tuned, [{"a": "a", "b": "is warm"}], llama, input="{a}: {b}")
    assert other["probability"].tolist() == expected["probability"].tolist()
    with pytest.raises(TaskError, match="row 1: field 'text' is missing"):
        predict(tuned, [{"title": "a"}], llama)


def test_a_tuned_module_predicts_after_it_was_saved(task: Task, llama: Backbone, tmp_path: Path) -> None:
    tuned = tune(task, llama, recipe=RECIPE, store=False)
    save_module(tuned.module, tmp_path / "mine")
    found = predict(tmp_path / "mine", plain_rows(task), llama)
    assert tuple(found["label"]) == evaluate(tuned, task, llama, store=False).predictions
    assert load_module(tmp_path / "mine").card.calibration == tuned.module.card.calibration


def test_options_of_each_row(llama: Backbone) -> None:
    tuned = answering(llama, labels=None, options="field")
    rows = [{"input": "which", "options": ["a", "b"]}, {"input": "what", "options": ["c", "d", "e"]}]
    found = predict(tuned, rows, llama)
    assert found["label"][0] in ("a", "b")
    assert found["label"][1] in ("c", "d", "e")
    with pytest.raises(SettingError, match=r"the options differ from row to row, .*; leave out every=True$") as caught:
        predict(tuned, rows, llama, every=True)
    assert caught.value.on_command_line.endswith("; leave out --all")
    with pytest.raises(TaskError, match="row 1: the row's 'options' is not a list of texts"):
        predict(tuned, [{"input": "which"}], llama)


def test_open_answers_are_written(llama: Backbone) -> None:
    tuned = answering(llama, labels=None, options=None, metric="EM")
    found = predict(tuned, [{"input": "the film"}], llama)
    assert list(found.columns) == ["input", "answer"]
    with pytest.raises(SettingError, match=r"answers are open; leave out every=True$") as caught:
        predict(tuned, [{"input": "the film"}], llama, every=True)
    assert caught.value.on_command_line.endswith("answers are open; leave out --all")
    again = predict(answering(llama), [{"input": "the film"}], llama, decoding="generate")
    assert again["answer"].tolist() == found["answer"].tolist()


def test_a_card_that_does_not_say_what_the_answers_are(llama: Backbone) -> None:
    foreign = module(llama, "ada", seed=1)
    message = (
        r"the card of 'ada' does not say what the answers are; name them with --labels \(labels in Python\), or ask"
    )
    with pytest.raises(SettingError, match=message):
        predict(foreign, [{"input": "a"}], llama)
    found = predict(foreign, [{"input": "a"}], llama, labels=["x", "y"])
    assert found["label"][0] in ("x", "y")
    assert predict(None, [{"input": "a"}], llama, labels=["x", "y"])["label"][0] in ("x", "y")
    with pytest.raises(SettingError, match="the bare backbone does not say what the answers are"):
        predict(None, [{"input": "a"}], llama)


def test_a_batch_calibration_of_other_labels_does_not_count(llama: Backbone) -> None:
    tuned = answering(llama, calibration=BATCH)
    found = predict(tuned, [{"input": "a"}], llama, labels=["x", "y"])
    assert found.equals(predict(answering(llama), [{"input": "a"}], llama, labels=["x", "y"]))


def test_a_task_head_answers() -> None:
    bert = encoder("bert")
    for what in ("classification", "regression", "span"):
        data = a_task(what)
        tuned = tune(data, bert, recipe=ENCODER_RECIPE, store=False)
        rows = [{"input": row.input} for row in data.dev]
        if any(row.pair for row in data.dev):
            continue
        found = predict(tuned, rows, bert)
        expected = evaluate(tuned, data, bert, split="dev", store=False)
        column = "label" if what == "classification" else "answer"
        assert tuple(found[column]) == expected.predictions
        assert ("probability" in found) == (what == "classification")
        if what == "classification":
            assert list(found["probability"]) == pytest.approx(list(expected.frame()["probability"]))


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([], "there are no rows to predict; add some"),
        (3, "rows is an int; give a list of dicts, a pandas DataFrame, a datasets.Dataset"),
        (["a"], "row 1 of rows is a str; give a list of dicts"),
        ([{"input": " "}], "row 1: the input is empty; fill it in or remove the row"),
        ([{"input": "a"}, {"input": "a\ud83d"}], "row 2: the text has half a surrogate pair .*; correct the row"),
    ],
)
def test_rows_that_cannot_be_read(rows: Any, message: str, llama: Backbone) -> None:
    with pytest.raises(TaskError, match=message):
        predict(answering(llama), rows, llama)


def saved(llama: Backbone, folder: Path, **card: Any) -> Path:
    save_module(answering(llama, **card), folder / "mine")
    return folder / "mine"


def test_on_the_command_line_rows_are_written(
    run: Run, here: dict[str, list[str]], task: Task, llama: Backbone, tmp_path: Path
) -> None:
    mine, rows = saved(llama, tmp_path, calibration=BATCH), plain_rows(task)
    frame = pd.DataFrame(rows)
    frame.to_csv(tmp_path / "in.csv", index=False)
    frame.to_parquet(tmp_path / "in.parquet")
    (tmp_path / "in.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    expected = predict(mine, rows, llama, every=True)
    for name in ("in.csv", "in.parquet", "in.jsonl"):
        ended = run("predict", mine, tmp_path / name, *here["on"], "--all", "-o", tmp_path / f"{name}.csv")
        assert ended.out == f"Wrote 12 rows to {tmp_path / f'{name}.csv'}.\n"
        pd.testing.assert_frame_equal(pd.read_csv(tmp_path / f"{name}.csv"), expected, rtol=1e-5)
    run("predict", mine, tmp_path / "in.csv", *here["on"], "-o", tmp_path / "out.jsonl")
    lines = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert [line["label"] for line in lines] == list(expected["label"])
    printed = run("predict", mine, tmp_path / "in.csv", *here["on"]).out.splitlines()
    assert printed[0] == "id,input,label,probability"
    lines = run("predict", mine, tmp_path / "in.csv", *here["on"], "--json").out.splitlines()
    assert [json.loads(line)["label"] for line in lines] == list(expected["label"])
    assert len(printed) == 13


def test_no_spreadsheet_computes_a_text_of_a_csv(
    run: Run, here: dict[str, list[str]], llama: Backbone, tmp_path: Path
) -> None:
    mine = saved(llama, tmp_path)
    texts = ["=1+1", "+cmd", "-5", "-5 degrees", "@name", "plain = text"]
    (tmp_path / "in.jsonl").write_text("".join(json.dumps({"input": text}) + "\n" for text in texts))
    for name in ("out.csv", "out.jsonl"):
        run("predict", mine, tmp_path / "in.jsonl", *here["on"], "-o", tmp_path / name)
    written = pd.read_csv(tmp_path / "out.csv", dtype=str)
    assert list(written["input"]) == ["'=1+1", "'+cmd", "-5", "'-5 degrees", "'@name", "plain = text"]
    lines = (tmp_path / "out.jsonl").read_text().splitlines()
    assert [json.loads(line)["input"] for line in lines] == texts


def test_a_run_that_fails_leaves_no_file(run: Run, here: dict[str, list[str]], llama: Backbone, tmp_path: Path) -> None:
    mine = saved(llama, tmp_path)
    (tmp_path / "in.jsonl").write_text('{"input": "a"}\n{"text": "b"}\n')
    ended = run("predict", mine, tmp_path / "in.jsonl", *here["on"], "-o", tmp_path / "out.csv")
    assert_mistake(ended, "field 'input' is missing")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in.jsonl", "mine"]
    (tmp_path / "in.csv").write_text("input\na\n")
    ended = run("predict", mine, tmp_path / "in.csv", *here["on"], "-o", tmp_path / "out.xlsx")
    assert_mistake(ended, "is neither .csv nor .jsonl; give it one of these endings")
    ended = run("predict", mine, tmp_path / "in.csv", *here["on"], "-o", tmp_path / "in.csv")
    assert_mistake(ended, "already exists")


def test_evaluate_on_the_command_line(
    run: Run, here: dict[str, list[str]], task: Task, llama: Backbone, tmp_path: Path
) -> None:
    mine = saved(llama, tmp_path, calibration=BATCH)
    command = ["evaluate", mine, *here["task"], *here["on"], "--store", tmp_path / "store"]
    data = run(*command, "--json", "-o", tmp_path / "rows.csv").data
    expected = evaluate(mine, task, llama, store=False)
    assert (data["score"], data["uncalibrated"]) == (expected.score, expected.uncalibrated_score)
    assert data["classes"] == expected.per_class().astype(object).replace({math.nan: None}).to_dict("records")
    assert data["baselines"]["chance"] == data["baselines"]["majority"] == 0.5
    assert list(pd.read_csv(tmp_path / "rows.csv")["prediction"]) == list(expected.predictions)
    table = run(*command, "--calibration", "none")
    assert f"reviews, test: ACC {expected.uncalibrated_score:.4f} on 12 rows (95 % interval over rows 0." in table.out
    assert "), answers chosen among options; loss " in table.out
    assert "For comparison: chance 0.5000, majority 0.5000; the bare backbone by the same command with --bare." in (
        " ".join(table.out.split())
    )
    assert "target / prediction" in table.out
    assert "Reused 1 evaluate unit from the store" in table.err
    bare = run("evaluate", "none", *here["task"], *here["on"], "--split", "dev", "--json").data
    assert (bare["split"], bare["rows"]) == ("dev", 12)


@pytest.mark.parametrize("labels", [["yes"], ["yes", "yes"], ["yes", "no", ""], []])
def test_labels_to_choose_from_are_different_texts(labels: list[str], task: Task, llama: Backbone) -> None:
    with pytest.raises(SettingError, match="must be two or more different texts, none of them empty; correct them"):
        predict(answering(llama), plain_rows(task), llama, labels=labels)


def test_another_file_is_evaluated_as_the_module_was_tuned(
    run: Run, here: dict[str, list[str]], llama: Backbone, tmp_path: Path
) -> None:
    mine = saved(llama, tmp_path, template=Template(input="{ticket}", target="{team}"), labels=("good", "bad"))
    rows = pd.DataFrame({"number": range(20), "ticket": [f"film {n} is fine" for n in range(20)]})
    gold = rows.assign(team=["good", "bad"] * 10)
    gold.to_csv(tmp_path / "gold.csv", index=False)
    command = ["evaluate", mine, tmp_path / "gold.csv", *here["on"], "--store", tmp_path / "store"]
    whole = run(*command)
    assert "is read as 'ada' was tuned: {ticket} → {team}" in " ".join(whole.err.split())
    fifth = run(*command, "--split", "test")
    assert "gold, test: ACC " in fifth.out
    assert " on 4 rows" in fifth.out
    assert "The file's other 16 rows were not scored; --split all scores every row." in " ".join(fifth.out.split())
    (tmp_path / "reviews.csv").write_bytes((tmp_path / "gold.csv").read_bytes())
    own = run("evaluate", mine, tmp_path / "reviews.csv", *here["on"], "--store", tmp_path / "store")
    assert "reviews, test: ACC " in own.out, "most of the table of the module's own task was tuned on"
    usual = gold.rename(columns={"ticket": "input", "team": "output"})
    usual.to_csv(tmp_path / "usual.csv", index=False)
    said = run("evaluate", mine, tmp_path / "usual.csv", *here["on"], "--store", tmp_path / "store")
    assert "usual, all: ACC " in said.out
    assert "because the module was tuned on 'reviews'; if that is the same table" in " ".join(said.err.split())
    assert "gold, all: ACC " in whole.out
    assert " on 20 rows" in whole.out
    assert "not scored" not in whole.out
    other = run(*command, "--input", "number", "--target", "team", "--json")
    assert "is read as" not in other.err, "what the command line says goes first"
    in_python = evaluate(mine, tmp_path / "gold.csv", llama, store=False)
    assert list(in_python.frame()["input"]) == list(gold["ticket"]), "and evaluates its rows in their order"
    bare = run(*command, "--bare", "--json").data
    alone = Task.load(tmp_path / "gold.csv", input="{ticket}", target="{team}", labels=["good", "bad"])
    layout = load_module(mine).card.text_format
    expected = evaluate(None, alone, llama, split="all", text_format=layout, store=False)
    assert (bare["rows"], bare["answer_loss"]) == (20, expected.answer_loss)
    assert evaluate(mine, tmp_path / "gold.csv", llama, bare=True, store=False) == expected
    batch = saved(llama, tmp_path / "batch", template=Template(input="{ticket}", target="{team}"), calibration=BATCH)
    again = evaluate(batch, alone, llama, split="all", bare=True, store=False)
    assert again.calibration.method == "batch", "calibrated as the module is, and anew"
    assert again.calibration != BATCH
    rows.to_csv(tmp_path / "new.csv", index=False)
    ended = run("evaluate", mine, tmp_path / "new.csv", *here["on"])
    assert_mistake(ended, "has no column 'team', which held the answers when 'ada' was tuned", "headstart predict")
