"""A metric of resampled rows is a function of sums over them: the same number as from the rows themselves."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headstart.tasks import METRICS, Metric

NAMES = ["ACC", "Classification-F1", "EM", "QA-F1", "Rouge-L", "Matthew-Correlation", "Pearson-Correlation"]
NUMBERS = ["1", "2", "3.5", "-4"]


def whole(metric: Metric, predictions: list[str], targets: list[str], weights: np.ndarray) -> np.ndarray:
    """The metric of every draw by its parts."""
    assert metric.parts is not None
    assert metric.whole is not None
    parts = metric.parts(predictions, [(target,) for target in targets])
    return metric.whole(weights @ parts, weights.sum(-1))


@pytest.mark.parametrize("name", NAMES)
@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_the_whole_of_a_draw_is_the_metric_of_its_rows(name: str, data: st.DataObject) -> None:
    rows = data.draw(st.integers(1, 8))
    targets = data.draw(st.lists(st.sampled_from(NUMBERS), min_size=rows, max_size=rows))
    predictions = data.draw(st.lists(st.sampled_from([*NUMBERS, "nothing"]), min_size=rows, max_size=rows))
    drawn = data.draw(st.lists(st.lists(st.integers(0, rows - 1), min_size=1, max_size=9), min_size=1, max_size=4))
    weights = np.array([np.bincount(draw, minlength=rows) for draw in drawn], dtype=np.float64)
    expected = [
        METRICS[name].compute([predictions[row] for row in draw], [(targets[row],) for row in draw]) for draw in drawn
    ]
    np.testing.assert_allclose(whole(METRICS[name], predictions, targets, weights), expected, atol=1e-9)


def test_macro_f1_by_hand() -> None:
    # rows: a/a, b/a, b/b. All: a has 1 right of 1 target and 2 answers, 2·1/3; b 1 of 2 and 1, 2·1/3.
    # Twice the first row: only class a occurs, all right. Rows 1 and 2: a 2·1/3, b 0 of 1: mean 1/3.
    weights = np.array([[1.0, 1, 1], [2, 0, 0], [1, 1, 0]])
    found = whole(METRICS["Classification-F1"], ["a", "a", "b"], ["a", "b", "b"], weights)
    np.testing.assert_allclose(found, [2 / 3, 1.0, 1 / 3])


def test_a_draw_of_one_class_has_no_matthews_correlation() -> None:
    weights = np.array([[1.0, 1, 1], [2, 0, 0]])
    found = whole(METRICS["Matthews"], ["a", "a", "b"], ["a", "b", "b"], weights)
    np.testing.assert_allclose(found, [0.5, np.nan])


def test_a_draw_with_an_answer_that_is_no_number_has_no_pearson_correlation() -> None:
    weights = np.array([[1.0, 1, 1, 1], [1, 1, 2, 0], [3, 0, 0, 0]])
    found = whole(METRICS["Pearson"], ["2", "4", "7", "many"], ["1", "2", "3", "4"], weights)
    assert np.isnan(found[[0, 2]]).all()
    assert found[1] == pytest.approx(METRICS["Pearson"].compute(["2", "4", "7", "7"], [["1"], ["2"], ["3"], ["3"]]))


def test_a_shift_of_large_numbers_changes_no_correlation() -> None:
    targets, found = [str(1e8 + value) for value in (0.0, 1.0, 3.0)], [str(-1e8 + value) for value in (0.0, 2.0, 3.0)]
    near = whole(METRICS["Pearson"], ["0", "2", "3"], ["0", "1", "3"], np.ones((1, 3)))
    np.testing.assert_allclose(whole(METRICS["Pearson"], found, targets, np.ones((1, 3))), near, rtol=1e-9)
