"""Metrics: hand-worked values, names, and what is undefined."""

import math
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headstart.errors import SettingError, TaskError
from headstart.tasks import METRICS, Metric

CROSSFIT_NAMES = ["ACC", "Classification-F1", "EM", "QA-F1", "Rouge-L", "Matthew-Correlation", "Pearson-Correlation"]


def test_registry_has_crossfits_names_and_two_aliases() -> None:
    assert list(METRICS) == [*CROSSFIT_NAMES, "Matthews", "Pearson"]
    assert [METRICS[name].name for name in CROSSFIT_NAMES] == CROSSFIT_NAMES
    assert METRICS["Matthews"] is METRICS["Matthew-Correlation"]
    assert METRICS["Pearson"] is METRICS["Pearson-Correlation"]


def test_unknown_metric_lists_the_known_ones() -> None:
    with pytest.raises(
        SettingError, match=r"unknown metric 'BLEU'; choose one of: ACC, Classification-F1, EM, .*Pearson$"
    ):
        METRICS["BLEU"]


def test_name_in_another_case_is_hinted_at() -> None:
    with pytest.raises(SettingError, match=r"unknown metric 'rouge-l'; .*; did you mean 'Rouge-L'\?"):
        METRICS["rouge-l"]


@pytest.mark.parametrize("name", CROSSFIT_NAMES)
def test_every_metric_is_1_on_right_answers_and_takes_any_iteration_of_lists(name: str) -> None:
    targets = ["1", "2", "3"]
    assert METRICS[name].compute(targets, [(target,) for target in targets]) == pytest.approx(1.0)


@pytest.mark.parametrize("name", CROSSFIT_NAMES)
def test_nothing_to_score_is_an_error_not_a_0(name: str) -> None:
    with pytest.raises(TaskError, match=f"{name}: no predictions to score; choose a split that has rows"):
        METRICS[name].compute([], [])


def test_lengths_and_empty_references_are_checked() -> None:
    with pytest.raises(TaskError, match="EM: 1 predictions for 2 rows; give one prediction a row"):
        METRICS["EM"].compute(["a"], [["a"], ["b"]])
    with pytest.raises(TaskError, match="EM: row 2 has no reference; give it at least one answer"):
        METRICS["EM"].compute(["a", "b"], [["a"], []])


def test_own_metric_is_a_name_and_a_formula() -> None:
    longest = Metric("longest", lambda predictions, references: max(map(len, predictions)))
    assert longest.compute(["a", "abc"], [["x"], ["y"]]) == 3.0


def test_acc_wants_the_same_text_but_for_outer_space() -> None:
    # right: " yes " (space), "b" (second reference); wrong: "Yes" (case), "the cat" (article) -> 2 of 4
    predictions = [" yes ", "b", "Yes", "the cat"]
    assert METRICS["ACC"].compute(predictions, [["yes"], ["a", "b"], ["yes"], ["cat"]]) == 0.5


def test_em_forgets_case_punctuation_articles_and_space() -> None:
    # right: "the  CAT!" ~ "cat", "U.S." ~ "us" (second reference); wrong: "cats"; "theme" keeps its "the"
    predictions = ["the  CAT!", "U.S.", "cats", "theme"]
    assert METRICS["EM"].compute(predictions, [["cat"], ["usa", "us"], ["cat"], ["me"]]) == 0.5


def test_qa_f1_by_hand() -> None:
    # row 1: {red, cat} against {red, big, cat}: shared 2 of 2 and of 3 -> 2*2/(2+3) = 0.8; "dog" -> 0; best 0.8
    # row 2: "cat cat" against "cat": the word counts once -> 2*1/(2+1) = 2/3
    score = METRICS["QA-F1"].compute(["the red cat", "cat cat"], [["dog", "a red, big cat"], ["cat"]])
    assert score == pytest.approx((0.8 + 2 / 3) / 2)


@pytest.mark.parametrize(
    ("prediction", "answer", "expected"), [("the", "a", 1.0), ("", "cat", 0.0), ("cat", "the", 0.0)]
)
def test_qa_f1_without_words_is_squad_2s(prediction: str, answer: str, expected: float) -> None:
    assert METRICS["QA-F1"].compute([prediction], [[answer]]) == expected


@given(st.text(alphabet="abthe .,", max_size=12), st.text(alphabet="abthe .,", max_size=12))
def test_exact_match_never_exceeds_qa_f1(prediction: str, answer: str) -> None:
    em, f1 = (METRICS[name].compute([prediction], [[answer]]) for name in ("EM", "QA-F1"))
    assert em <= f1 <= 1.0


def test_classification_f1_is_the_mean_over_classes() -> None:
    # targets a a b, predictions a b b: class a: precision 1, recall 1/2 -> 2/3; class b: 1/2, 1 -> 2/3
    assert METRICS["Classification-F1"].compute(["a", "b ", "b"], [["a"], ["a"], ["b"]]) == pytest.approx(2 / 3)


def test_classification_f1_counts_a_foreign_prediction_as_a_class() -> None:
    # a: precision 1, recall 1/2 -> 2/3; b: 1; "junk": 0 -> mean 5/9
    assert METRICS["Classification-F1"].compute(["a", "junk", "b"], [["a"], ["a"], ["b"]]) == pytest.approx(5 / 9)


def test_classification_f1_with_as_many_answers_as_rows_does_not_warn() -> None:
    texts = [f"text {number}" for number in range(30)]
    assert METRICS["Classification-F1"].compute(texts, [[text] for text in texts]) == 1.0


def test_rouge_l_by_hand() -> None:
    # "a b c d" against "a x c": common subsequence "a c", 2 -> precision 2/4, recall 2/3, F 2*2/(4+3) = 4/7
    # and against "a b": 2*2/(4+2) = 2/3, the better reference
    assert METRICS["Rouge-L"].compute(["a b c d"], [["a x c"]]) == pytest.approx(4 / 7)
    assert METRICS["Rouge-L"].compute(["a b c d"], [["a x c", "A b."]]) == pytest.approx(2 / 3)


def test_rouge_l_reads_other_scripts_and_nothing() -> None:
    assert METRICS["Rouge-L"].compute(["белый кот"], [["Белый кот!"]]) == 1.0
    assert METRICS["Rouge-L"].compute([""], [["cat"]]) == 0.0


@given(st.lists(st.text(alphabet="ab1 _-.", max_size=10), min_size=1, max_size=4))
def test_rouge_l_is_the_librarys_own_on_ascii(texts: list[str]) -> None:
    from rouge_score.rouge_scorer import RougeScorer

    expected = RougeScorer(["rougeL"]).score("a b ab 1", " ".join(texts))["rougeL"].fmeasure
    assert METRICS["Rouge-L"].compute([" ".join(texts)], [["a b ab 1"]]) == pytest.approx(expected)


def test_matthews_by_hand() -> None:
    # yes = positive: TP 2, TN 1, FP 1, FN 0 -> (2*1 - 1*0)/sqrt(3*2*2*1) = 2/sqrt(12)
    score = METRICS["Matthews"].compute(["yes", "yes", "yes", "no"], [["yes"], ["yes"], ["no"], ["no"]])
    assert score == pytest.approx(2 / math.sqrt(12))


def test_matthews_at_chance_and_undefined() -> None:
    assert METRICS["Matthews"].compute(["yes", "yes"], [["yes"], ["no"]]) == 0.0
    assert math.isnan(METRICS["Matthews"].compute(["yes", "no"], [["yes"], ["yes"]]))


def test_pearson_by_hand() -> None:
    # deviations of 1 2 3: -1 0 1; of 1 3 2: -1 1 0 -> 1/(sqrt 2 * sqrt 2) = 0.5
    assert METRICS["Pearson"].compute(["1", " 3.0 ", "2e0"], [["1"], ["2"], ["3"]]) == pytest.approx(0.5)


@pytest.mark.parametrize("predictions", [["1", "1", "1"], ["1", "two", "3"], ["1", "inf", "3"], ["nan", "1", "2"]])
def test_pearson_is_nan_for_constant_or_unreadable_predictions(predictions: list[str]) -> None:
    assert math.isnan(METRICS["Pearson"].compute(predictions, [["1"], ["2"], ["3"]]))


def test_pearson_is_nan_for_constant_targets_and_one_row() -> None:
    assert math.isnan(METRICS["Pearson"].compute(["1", "2"], [["3"], ["3.0"]]))
    assert math.isnan(METRICS["Pearson"].compute(["1"], [["3"]]))


def test_pearson_of_nearly_constant_numbers_does_not_warn() -> None:
    score = METRICS["Pearson"].compute(["1", "1.0000000000000002", "1"], [["1"], ["2"], ["1"]])
    assert math.isnan(score) or -1.0 <= score <= 1.0001


def test_pearson_target_that_is_no_number_is_the_tasks_fault() -> None:
    with pytest.raises(TaskError, match="Pearson-Correlation: target 'two' of row 2 is not a number; correct the task"):
        METRICS["Pearson"].compute(["1", "2"], [["1"], ["two"]])


def test_importing_tasks_loads_nothing_heavy() -> None:
    code = (
        "import sys, headstart.tasks as t; t.METRICS['EM'].compute(['a'], [['a']]); "
        "print([m for m in "
        "('torch', 'datasets', 'pandas', 'pyarrow', 'sklearn', 'scipy', 'rouge_score') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize(
    ("prediction", "answer", "score"),
    [
        # a vowel sign is part of its word: two words that differ in it share nothing
        ("हिम", "हाम", 0.0),
        ("हिम गिरा", "हिम आया", 0.5),
        ("caf\u00e9", "cafe\u0301", 1.0),
        ("cafe", "caf\u00e9", 0.0),
        ("می\u200cروم", "می\u200cروم!", 1.0),
        ("می\u200cروم", "می", 0.0),
    ],
)
def test_rouge_l_takes_marks_for_letters(prediction: str, answer: str, score: float) -> None:
    assert METRICS["Rouge-L"].compute([prediction], [[answer]]) == pytest.approx(score)


def test_a_metric_that_is_no_text_is_an_unknown_one() -> None:
    with pytest.raises(SettingError, match=r"unknown metric 'None'; choose one of: ACC"):
        METRICS[None]  # type: ignore[index]
