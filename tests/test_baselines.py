"""What a guess, and always the same answer, score: hand-worked."""

import math

import pytest

from headstart.comparing.examples import example_rows
from headstart.records import TaskCard
from headstart.tasks import Example, Task
from headstart.tasks.baselines import chance, majority


def rows(*targets: str, options: tuple[str, ...] | None = ("a", "b")) -> tuple[Example, ...]:
    return tuple(Example(f"input {number}", (target,), options) for number, target in enumerate(targets))


def test_chance_of_a_mean_over_rows_is_exact() -> None:
    # Half of two options, and a third of three.
    examples = (*rows("a", "a"), *rows("a", "b", options=("a", "b", "c")))
    found = chance(examples, "ACC")
    assert found == {"name": "chance", "score": pytest.approx((0.5 + 0.5 + 1 / 3 + 1 / 3) / 4), "note": found["note"]}
    assert found["note"] == "a uniform guess among 2 to 3 options"


def test_chance_of_macro_f1_is_that_of_many_rows() -> None:
    # Three a, one b. A guess: a is right 1.5 times of 3 targets and 2 answers, 2·1.5/5; b 0.5 times of 1 and 2, 1/3.
    assert chance(rows("a", "a", "a", "b"), "Classification-F1")["score"] == pytest.approx((0.6 + 1 / 3) / 2)
    assert chance(rows("a", "a", "a", "b"), "Matthews")["score"] == pytest.approx(0)
    # Sums of thirds are not exact, but a guess's correlation is.
    three = rows("a", "a", "a", "a", "b", "b", "b", "b", "c", "c", "c", "c", options=("a", "b", "c"))
    assert chance(three, "Matthews")["score"] == 0


def test_there_is_no_chance_among_open_answers() -> None:
    found = chance(rows("a", "b", options=None), "EM")
    assert math.isnan(found["score"])
    assert found["note"] == "answers are open: there are no options to guess among"


def task(train: tuple[Example, ...], test: tuple[Example, ...], metric: str = "ACC") -> Task:
    return Task(TaskCard(name="letters", metric=metric), {"train": train, "test": test})


def test_majority_is_the_most_frequent_answer_of_the_drawn_rows() -> None:
    whole = task(rows("b", "a", "a", "b", "b"), rows("a", "b", "a", "a"))
    drawn = task(rows("b", "a", "a"), whole.test)
    assert majority(whole, [drawn])["score"] == 0.75
    found = majority(whole, [task(rows("a", "b"), whole.test)])
    assert found["score"] == 0.25, "the draw is balanced, and b is more frequent in the whole split"
    assert found["note"] == "always 'b', the most frequent answer of the training rows"


def test_a_constant_answer_correlates_with_nothing() -> None:
    whole = task(rows("1", "2", options=None), rows("1", "2", options=None), metric="Pearson-Correlation")
    found = majority(whole, [whole])
    assert math.isnan(found["score"])
    assert found["note"] == "Pearson-Correlation is undefined for such answers"


def test_without_a_frequent_answer_there_is_no_majority() -> None:
    whole = task(rows("T-1", "T-2", "T-3", options=None), rows("T-1", options=None), metric="EM")
    found = majority(whole, [whole])
    assert math.isnan(found["score"])
    assert found["note"] == "no answer of the training rows is given twice"


def test_inputs_are_cut() -> None:
    (found,) = example_rows([Example("x" * 500, ("yes", "ja"))])
    assert found == {"row": 0, "input": "x" * 400, "target": "yes", "references": '["yes", "ja"]', "group": ""}
