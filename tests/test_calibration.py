"""Calibration by hand, what it is chosen by, and what an evaluation says row by row and class by class."""

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from headstart.backbones import Backbone, TextFormat
from headstart.errors import SettingError, TaskError
from headstart.evaluating.answering import Answers
from headstart.evaluating.calibration import Calibration, calibrate, fit_calibration
from headstart.evaluating.evaluate import ON_TRAIN, evaluate
from headstart.evaluating.evaluate_many import evaluate_many
from headstart.evaluating.evaluation import Evaluation
from headstart.events import Event, Note
from headstart.kinds import save_module
from headstart.tasks import Example, Task
from naive import REVIEWS, random_lora
from small_hub import write_task

SHORT = TextFormat(max_target=8)
OPTIONS = ("no", "yes, it is")


def evaluation(
    scores: list[tuple[float, ...]], targets: list[str], *, options: tuple[str, ...] = OPTIONS
) -> Evaluation:
    """An evaluation of "no" (2 tokens) and "yes, it is" (4 tokens), from the log-likelihoods."""
    rows = [Example(f"row {index}", (target,), options) for index, target in enumerate(targets)]
    predictions = tuple(options[row.index(max(row))] for row in scores)
    losses = tuple(-row[options.index(target)] for row, target in zip(scores, targets, strict=True))
    found = Answers(predictions, losses, (options,) * len(rows), tuple(scores), ((2, 4),) * len(rows), 3 * len(rows))
    return Evaluation.of(found, rows, metric="ACC", decoding="options")


# "no" is likelier in every row, by 3, 1, 3 and 1 nats: its mean is -2, that of the other -4, so that 2 nats are bias.
BIASED = evaluation([(-2.0, -5.0), (-2.0, -3.0), (-2.0, -5.0), (-2.0, -3.0)], ["no", "yes, it is", "no", "yes, it is"])


def test_the_mean_of_each_option_is_taken_off() -> None:
    chosen = fit_calibration(BIASED, method="batch")
    assert chosen == Calibration(method="batch", offsets={"no": -2.0, "yes, it is": -4.0})
    found = calibrate(BIASED, chosen)
    # -2 + 2 = 0 against -5 + 4 = -1, and 0 against -3 + 4 = 1.
    assert found.predictions == ("no", "yes, it is", "no", "yes, it is")
    assert (found.score, found.uncalibrated_score, BIASED.score) == (1.0, 0.5, 0.5)
    assert found.uncalibrated == BIASED.predictions == ("no",) * 4
    assert found.loss == BIASED.loss


def test_a_likelihood_is_divided_by_the_tokens_of_its_option() -> None:
    # -2 / 2 = -1 against -5 / 4 = -1.25, and against -3 / 4 = -0.75.
    found = calibrate(BIASED, Calibration(method="length"))
    assert found.predictions == ("no", "yes, it is", "no", "yes, it is")
    assert found.calibration.method == "length"


def test_it_is_chosen_by_the_dev_score_and_of_equals_the_first() -> None:
    assert fit_calibration(BIASED).method == "length"
    sound = evaluation([(-1.0, -5.0), (-5.0, -1.0)], ["no", "yes, it is"])
    assert fit_calibration(sound) == Calibration()
    only_batch = evaluation([(-9.0, -10.0), (-9.0, -16.0), (-9.0, -13.0)], ["yes, it is", "no", "no"])
    # By length -4.5 against -2.5, -4 and -3.25: all wrong but one. Offsets -9 and -13: -10 gains, -16 and -13 do not.
    assert fit_calibration(only_batch).method == "batch"


def test_further_inputs_count_without_their_targets() -> None:
    more = evaluation([(-6.0, -4.0), (-6.0, -4.0)], ["no", "no"])
    expected = {"no": (4 * -2.0 + 2 * -6.0) / 6, "yes, it is": -4.0}
    assert fit_calibration(BIASED, more, method="batch").offsets == pytest.approx(expected)
    other = evaluation([(-6.0, -4.0), (-6.0, -4.0)], ["yes, it is", "no"])
    assert fit_calibration(BIASED, other, method="batch") == fit_calibration(BIASED, more, method="batch")


def test_options_that_differ_from_row_to_row_have_no_batch_calibration() -> None:
    rows = [Example("a", ("x",), ("x", "y")), Example("b", ("y",), ("y", "z"))]
    answers = Answers(("x", "y"), (1.0, 1.0), (("x", "y"), ("y", "z")), ((-1.0, -2.0),) * 2, ((2, 2),) * 2, 4)
    found = Evaluation.of(answers, rows, metric="ACC", decoding="options")
    with pytest.raises(SettingError, match=r"calibration 'batch' needs the same options in every row.*; use 'length'$"):
        fit_calibration(found, method="batch")
    assert fit_calibration(found).method == "none"
    assert calibrate(found, Calibration(method="batch", offsets={"x": 0.0, "y": 0.0})) is found, "made for other labels"
    with pytest.raises(TaskError, match=r"no classes in common to count by; use frame\(\)"):
        found.per_class()


def test_open_answers_and_heads_have_none(llama: Backbone) -> None:
    (found,) = evaluate_many([None], REVIEWS, llama, metric="ACC", decoding="generate", text_format=SHORT)
    assert fit_calibration(found) == Calibration()
    assert calibrate(found, Calibration(method="length")) is found
    with pytest.raises(SettingError, match=r"these rows are answered in open text; leave it at auto$"):
        fit_calibration(found, method="length")
    with pytest.raises(SettingError, match="unknown calibration 'size'; choose one of: auto, none, length, batch"):
        fit_calibration(found, method="size")


def test_likelihoods_that_are_no_numbers_are_not_calibrated() -> None:
    broken = evaluation([(math.nan, -1.0), (-1.0, -2.0)], ["no", "no"])
    assert fit_calibration(broken) == Calibration()


def test_every_row_keeps_its_loss_and_the_likelihoods_of_its_options(llama: Backbone) -> None:
    (found,) = evaluate_many([random_lora(llama, seed=1)], REVIEWS, llama, metric="ACC", text_format=SHORT)
    assert found.options == tuple(row.options for row in REVIEWS)
    for row, options, scores, lengths, loss in zip(
        REVIEWS, found.options, found.scores, found.lengths, found.losses, strict=True
    ):
        assert lengths == tuple(len(llama.encoder.target(text, SHORT)) for text in options)
        assert loss == -scores[options.index(row.target)]
    tokens = sum(len(llama.encoder.target(row.target, SHORT)) for row in REVIEWS)
    assert found.loss == pytest.approx(math.fsum(found.losses) / tokens)
    opened = [replace(row, options=None) for row in REVIEWS]
    (written,) = evaluate_many([random_lora(llama, seed=1)], opened, llama, metric="ACC", text_format=SHORT)
    assert written.losses == pytest.approx(found.losses, abs=1e-4)
    assert (written.options, written.scores, written.lengths) == ((), (), ())


def test_classes_are_counted() -> None:
    options = ("a", "b", "c")
    rows = [Example("x", (target,), options) for target in ("a", "a", "b", "b")]
    answers = Answers(("a", "b", "b", "b"), (1.0,) * 4, (options,) * 4, ((-1.0, -1.0, -1.0),) * 4, ((2, 2, 2),) * 4, 8)
    found = Evaluation.of(answers, rows, metric="ACC", decoding="options")
    assert found.classes == options
    table = found.per_class().set_index("class")
    # "a": one of one predicted is right, of two rows; "b": two of three, of two rows; "c": neither row nor prediction.
    assert table.loc["a"].tolist() == pytest.approx([1.0, 0.5, 2 / 3, 2])
    assert table.loc["b"].tolist() == pytest.approx([2 / 3, 1.0, 0.8, 2])
    assert table.loc["c", ["precision", "recall", "F1"]].isna().all()
    expected = pd.DataFrame(
        [[1, 1, 0], [0, 2, 0], [0, 0, 0]], pd.Index(options, name="target"), pd.Index(options, name="prediction")
    )
    pd.testing.assert_frame_equal(found.confusion(), expected, check_dtype=False)
    whole = found.frame()
    assert list(whole["where"]) == [row.where for row in found.examples]
    assert list(whole["right"]) == [True, False, True, True]
    assert list(whole["probability"]) == pytest.approx([1 / 3] * 4)


def test_an_answer_that_is_no_class_has_a_column_of_its_own() -> None:
    rows = [Example("x", ("a",), ("a", "b")), Example("y", ("b",), ("a", "b"))]
    found = Evaluation.of(Answers(("a", "hm"), (1.0, 1.0), (), (), (), 4), rows, metric="ACC", decoding="generate")
    assert found.confusion().loc["b", "(none of them)"] == 1
    assert found.frame()["probability"].isna().all()


def test_one_module_on_a_split_with_the_task_s_metric(llama: Backbone, tmp_path: Path) -> None:
    task = Task.load(write_task(tmp_path / "reviews"))
    module = random_lora(llama, seed=1)
    save_module(module, tmp_path / "saved")
    found = evaluate(module, task, llama, store=tmp_path / "store")
    (expected,) = evaluate_many([module], task.test, llama, metric=task.card.metric)
    assert found == expected
    assert found.examples == task.test
    assert evaluate(str(tmp_path / "saved"), task, llama, store=tmp_path / "store") == found
    assert evaluate(module, task, llama, split="dev", store=False).examples == task.dev
    bare = evaluate(None, task, llama, calibration="batch", store=tmp_path / "store")
    inputs = [row for split in (task.dev, task.train) for row in split]
    (plain,) = evaluate_many([None], inputs, llama, metric="ACC")
    means = np.mean(plain.scores, axis=0)
    assert bare.calibration.offsets == pytest.approx(dict(zip(plain.options[0], means, strict=True)))


def test_what_an_evaluation_cannot_do(llama: Backbone, tmp_path: Path) -> None:
    task = Task.load(write_task(tmp_path / "reviews"))
    with pytest.raises(SettingError, match="unknown calibration 'best'"):
        evaluate(None, task, llama, calibration="best")
    with pytest.raises(TaskError, match="task 'reviews' has no split 'validation'"):
        evaluate(None, task, llama, split="validation")


@pytest.mark.parametrize("row", [(-1.0, math.nan), (math.nan, -1.0)])
def test_one_likelihood_that_is_no_number_leaves_no_score(row: tuple[float, float]) -> None:
    target = OPTIONS[row.index(-1.0)]
    found = evaluation([row, (-2.0, -5.0)], [target, "no"])
    assert math.isfinite(found.loss)
    assert math.isnan(found.score)
    length = calibrate(found, Calibration(method="length"))
    assert math.isnan(length.score)
    assert math.isnan(length.uncalibrated_score)
    assert fit_calibration(found) == Calibration()


def test_length_needs_no_dev_rows(llama: Backbone) -> None:
    rows = [{"input": f"row {number}", "output": ("no", "yes")[number % 2]} for number in range(4)]
    task = Task.from_rows(splits={"test": rows}, labels=["no", "yes"])
    found = evaluate(None, task, llama, calibration="length", store=False)
    assert found.calibration == Calibration(method="length")
    with pytest.raises(
        TaskError, match="'batch' is chosen on dev rows, else on train rows, and task 'rows' has neither"
    ):
        evaluate(None, task, llama, calibration="batch", store=False)


def test_without_dev_rows_train_rows_choose_and_it_is_said(llama: Backbone) -> None:
    rows = [{"input": f"row {number}", "output": ("no", "yes")[number % 2]} for number in range(8)]
    task = Task.from_rows(splits={"train": rows[:4], "test": rows[4:]}, labels=["no", "yes"])
    heard: list[Event] = []
    found = evaluate(None, task, llama, calibration="auto", store=False, progress=heard.append)
    (train,) = evaluate_many([None], task.train, llama, metric="ACC")
    assert found.calibration == fit_calibration(train)
    assert [event.text for event in heard if isinstance(event, Note)] == [ON_TRAIN]
    batch = evaluate(None, task, llama, calibration="batch", store=False)
    assert batch.calibration == fit_calibration(train, method="batch")
