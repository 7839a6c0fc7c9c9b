"""Intervals over rows and seeds: hand-worked numbers, a plain loop as a reference, and what must not matter."""

import math
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headstart.statistics.differences import Components, Difference, difference
from headstart.statistics.folds import FoldedComponents, over_folds, tunings_share
from headstart.statistics.holm import holm
from headstart.statistics.resampling import group_numbers, resampled, resampled_lists, row_weights
from headstart.tasks import METRICS

ACC = METRICS["ACC"]


def mean(sums: np.ndarray, counts: np.ndarray) -> np.ndarray:
    return np.asarray(sums[..., 0] / counts)


def rows_of(table: np.ndarray, *, groups: np.ndarray | None = None, draws: int = 4000, seed: int = 0) -> Difference:
    """The mean difference of a table (seeds, rows) of differences."""
    groups = np.arange(table.shape[1]) if groups is None else groups
    drawn = resampled([row[:, None] for row in table], mean, groups, draws=draws, seed=seed)
    return difference(table.mean(1), drawn, groups=int(groups.max()) + 1, rows=table.shape[1])


class TestDraws:
    def test_every_draw_holds_as_many_rows_as_there_are(self) -> None:
        weights = np.concatenate(list(row_weights(np.arange(7), draws=50, seed=1)))
        assert weights.shape == (50, 7)
        assert (weights.sum(1) == 7).all()
        again = np.concatenate(list(row_weights(np.arange(7), draws=50, seed=1)))
        np.testing.assert_array_equal(weights, again)

    def test_rows_of_a_group_come_and_go_together(self) -> None:
        numbers = group_numbers(["x", "", "x", "y", "y", "y"])
        assert numbers.tolist() == [0, 1, 0, 2, 2, 2]
        weights = np.concatenate(list(row_weights(numbers, draws=50, seed=1)))
        assert (weights[:, 0] == weights[:, 2]).all()
        assert (weights[:, 3:].max(1) == weights[:, 3:].min(1)).all()
        assert (weights[:, [0, 1, 3]].sum(1) == 3).all()

    def test_a_row_without_a_group_is_not_of_the_group_that_is_called_as_its_number(self) -> None:
        assert group_numbers(["1", ""]).tolist() == [0, 1]

    def test_groups_of_one_row_are_no_groups(self) -> None:
        one = np.concatenate(list(row_weights(group_numbers(["a", "b", "c"]), draws=20, seed=0)))
        none = np.concatenate(list(row_weights(group_numbers(["", "", ""]), draws=20, seed=0)))
        np.testing.assert_array_equal(one, none)

    @pytest.mark.parametrize("name", ["ACC", "Classification-F1", "Matthews"])
    def test_the_score_of_a_draw_is_that_of_a_plain_loop(self, name: str) -> None:
        draw = np.random.default_rng(0)
        targets = list(draw.choice(["a", "b", "c"], 12))
        answers = [list(draw.choice(["a", "b", "c"], 12)) for _ in range(3)]
        groups = np.array([0, 0, 1, 2, 3, 4, 5, 5, 5, 6, 7, 8])
        references = [(target,) for target in targets]
        metric = METRICS[name]
        assert metric.parts is not None
        assert metric.whole is not None
        found = resampled([metric.parts(each, references) for each in answers], metric.whole, groups, draws=40, seed=3)
        scores = [
            lambda rows, each=each: metric.compute([each[row] for row in rows], [references[row] for row in rows])
            for each in answers
        ]
        np.testing.assert_allclose(found, resampled_lists(scores, groups, draws=40, seed=3))
        expected = np.empty((3, 40))
        generator = np.random.default_rng(3)
        for number, drawn in enumerate(generator.integers(9, size=(40, 9))):
            rows = [row for group in drawn for row in np.flatnonzero(groups == group)]
            for index, each in enumerate(answers):
                expected[index, number] = metric.compute([each[row] for row in rows], [references[row] for row in rows])
        np.testing.assert_allclose(found, expected, equal_nan=True)


class TestDifference:
    def test_one_seed_by_hand(self) -> None:
        # 10 rows, 4 of them +1: mean 0.4, the bootstrap's variance 0.4·0.6/10, times 10/9 as of a sample: 0.026667.
        # The error is its root, 0.16330, and t(0.975, 9) = 2.26216.
        found = rows_of(np.array([[1.0] * 4 + [0.0] * 6]), draws=200_000)
        assert found.mean == pytest.approx(0.4)
        assert found.error == pytest.approx(0.16330, rel=5e-3)
        assert found.df == 9
        assert found.interval() == (pytest.approx(0.4 - 0.36941, abs=4e-3), pytest.approx(0.4 + 0.36941, abs=4e-3))

    def test_seeds_count_from_six_on(self) -> None:
        # Every row of a seed has the seed's own difference: no error over rows, and var(0…5)/6 = 3.5/6 over seeds.
        table = np.repeat(np.arange(6.0)[:, None], 100, axis=1)
        few, six = rows_of(table[:5]), rows_of(table)
        assert (few.over_seeds, six.over_seeds) == (False, True)
        assert few.error == pytest.approx(math.sqrt(6 / 5) / 102)
        assert six.error == pytest.approx(math.sqrt(3.5 / 6 + 7 / 6 / 102**2))
        assert six.df == pytest.approx(5, rel=1e-3)

    def test_the_components_are_those_of_the_model(self) -> None:
        # Drawing seeds and rows together counts what both do together three times; these estimates count it once.
        draw = np.random.default_rng(5)
        found = []
        for number in range(40):
            table = (
                0.3 * draw.standard_normal((10, 1)) + 0.8 * draw.standard_normal((1, 200))
                + 1.0 * draw.standard_normal((10, 200))
            )  # fmt: skip
            found.append(rows_of(table, draws=400, seed=number))
        parts = [(each.components.seeds, each.components.rows, each.components.both) for each in found]
        np.testing.assert_allclose(np.mean(parts, axis=0), [0.09, 0.64, 1.0], rtol=0.12)
        variance = 0.09 / 10 + 0.64 / 200 + 1 / 2000
        assert np.mean([each.error**2 for each in found]) == pytest.approx(variance, rel=0.12)

    def test_a_constant_gain_over_three_seeds_is_a_win(self) -> None:
        # 0.300 on each of three seeds, from 30 of 100 rows on each: the rows say how sure that is.
        table = np.zeros((3, 100))
        table[:, :30] = 1
        found = rows_of(table)
        assert found.mean == pytest.approx(0.3)
        assert found.interval()[0] > 0.2
        assert found.p < 1e-6

    def test_rows_that_all_agree_are_no_proof(self) -> None:
        found = rows_of(np.ones((1, 3)))
        assert found.error == pytest.approx(math.sqrt(2) / 5)
        nothing = rows_of(np.zeros((3, 50)))
        assert nothing.mean == 0
        assert nothing.p == 1
        assert nothing.interval()[1] == pytest.approx(2.0096 * math.sqrt(4 / 3) / 52, rel=1e-4)
        numbers = difference(np.zeros(3), np.zeros((3, 9)), groups=50, counted=False)
        assert numbers.interval()[1] == pytest.approx(2.0096 / 2 / 52, rel=1e-4)

    def test_what_is_unknown_has_a_reason(self) -> None:
        one = rows_of(np.ones((3, 1)))
        assert (one.reason, math.isnan(one.p)) == ("one group of rows says nothing about others; add rows", True)
        bare = difference(np.array([0.1, 0.2]), np.empty((2, 0)), groups=0)
        assert (bare.mean, bare.reason) == (pytest.approx(0.15), "the answers to single rows are not known")
        drawn = np.full((1, 100), math.nan)
        drawn[0, :40] = 0.1
        assert difference(np.array([0.1]), drawn, groups=9).reason == (
            "the metric is undefined in 60% of the draws of rows; add rows"
        )
        drawn[0, :80] = np.linspace(0, 0.2, 80)
        assert not difference(np.array([0.1]), drawn, groups=9).reason
        assert math.isnan(bare.seeds_needed())
        assert math.isnan(bare.groups_needed())
        assert all(math.isnan(end) for end in bare.interval())

    @settings(max_examples=25, deadline=None)
    @given(st.integers(1, 8), st.integers(5, 30), st.integers(0, 1000))
    def test_swapping_the_methods_turns_the_sign(self, seeds: int, rows: int, seed: int) -> None:
        table = np.random.default_rng(seed).choice([-1.0, 0.0, 1.0], (seeds, rows))
        one, other = rows_of(table, draws=200), rows_of(-table, draws=200)
        assert other.mean == -one.mean
        assert other.interval() == pytest.approx([-end for end in reversed(one.interval())])
        assert other.p == pytest.approx(one.p)
        assert one.groups_needed() == pytest.approx(other.groups_needed(), nan_ok=True)

    def test_the_order_of_the_rows_does_not_matter(self) -> None:
        draw = np.random.default_rng(1)
        table = draw.choice([-1.0, 0.0, 1.0], (4, 80), p=[0.1, 0.6, 0.3])
        one, other = rows_of(table), rows_of(table[:, draw.permutation(80)])
        assert other.mean == pytest.approx(one.mean)
        assert other.error == pytest.approx(one.error, rel=0.04)

    def test_twins_in_groups_are_no_more_than_one_of_each(self) -> None:
        table = np.random.default_rng(2).choice([-1.0, 0.0, 1.0], (1, 40), p=[0.2, 0.4, 0.4])
        twins = np.repeat(table, 2, axis=1)
        single, grouped = rows_of(table), rows_of(twins, groups=np.repeat(np.arange(40), 2))
        assert grouped.error == pytest.approx(single.error)
        assert rows_of(twins).error < 0.75 * single.error, "taken as 80 rows they would say too much"


class TestPlanning:
    # Each row ±1 or 0: variance of one row on one seed 0.5; nothing else.
    components = Components(seeds=0.0, rows=0.0, both=0.5)

    def test_the_rows_needed_are_enough_and_one_less_is_not(self) -> None:
        found = Difference(0.03, 0.05, 99, 1, 100, Components(0.0, 0.5, 0.0))
        rows = found.groups_needed()
        # (1.96 + 0.8416)² · 0.5 / 0.03² = 4360.5, and a little as t has heavier tails
        assert rows == pytest.approx(4362, abs=3)
        assert found.components.shows(0.03, 1, int(rows), alpha=0.05)
        assert not found.components.shows(0.03, 1, int(rows) - 1, alpha=0.05)
        assert math.isnan(Difference(0.001, 0.05, 99, 1, 100, Components(0.0, 0.5, 0.0)).groups_needed())

    def test_as_many_rows_as_can_be_needed_are_counted_and_not_groups(self) -> None:
        # 4,362 groups of 10 rows are 43,620 rows, those of 30 more than 100,000
        for size, known in ((10.0, True), (30.0, False)):
            found = Difference(0.03, 0.05, 99, 1, 100, Components(0.0, 0.5, 0.0, size))
            assert math.isnan(found.groups_needed()) is not known

    def test_more_seeds_help_as_far_as_rows_allow(self) -> None:
        found = Difference(0.05, 0.05, 99, 3, 100, Components(0.0, 0.0, 0.5))
        seeds = found.seeds_needed()
        assert found.components.shows(0.05, int(seeds), 100, alpha=0.05)
        assert not found.components.shows(0.05, int(seeds) - 1, 100, alpha=0.05)
        assert math.isnan(Difference(0.05, 0.05, 99, 3, 100, Components(0.0, 0.5, 0.0)).seeds_needed())

    def test_one_seed_says_nothing_of_more_seeds(self) -> None:
        assert math.isnan(Difference(0.3, 0.5, 99, 1, 100, Components(0.0, 0.5, 0.0)).seeds_needed())

    def test_the_smallest_difference_by_hand(self) -> None:
        # t(0.975, 10) + t(0.8, 10) = 2.22814 + 0.87906
        found = Difference(0.0, 0.1, 10, 1, 11, self.components)
        assert found.smallest() == pytest.approx(0.310720, abs=1e-5)


def test_holm_by_hand() -> None:
    # sorted 0.01·4, 0.02·3, 0.03·2, 0.2·1; none may be below one before it
    assert holm([0.02, 0.2, 0.01, 0.03]) == pytest.approx([0.06, 0.2, 0.04, 0.06])
    assert holm([]) == []
    assert holm([0.6, 0.7]) == [1.0, 1.0]


def test_ten_thousand_draws_take_about_a_second() -> None:
    draw = np.random.default_rng(0)
    parts = [draw.random((2000, 1)) for _ in range(20)]
    began = time.process_time()
    assert resampled(parts, mean, np.arange(2000)).shape == (20, 10_000)
    assert time.process_time() - began < 10, "seconds of all cores, on the slowest machine"


class TestFolds:
    MEANS = np.array([[1.0, 3.0, 2.0], [2.0, 4.0, 6.0]])

    def test_by_hand(self) -> None:
        # Less the methods' means (2, 4) and the folds' (1.5, 3.5, 4) about 3, ±(0.5, 0.5, -1) is left of each method:
        # a square sum of 3 on 2 degrees of freedom. Two methods differ by 2 · 3/2 / 3 = 1 over three folds.
        rows = rows_of(np.array([[1.0, -1.0] * 20]))
        found = over_folds(rows, self.MEANS)
        added = (1 - rows.error**2) * (1 + 3 / 2)
        assert found.error == pytest.approx(math.sqrt(rows.error**2 + added))
        assert found.df == pytest.approx(found.error**4 / (rows.error**4 / 39 + added**2 / 2))
        assert found.mean == rows.mean
        wide, narrow = found.interval(), rows.interval()
        assert wide[0] < narrow[0] < narrow[1] < wide[1]

    def test_methods_on_the_same_folds_differ_as_a_paired_test_says(self) -> None:
        means = np.random.default_rng(0).normal(size=(2, 6))
        found = over_folds(rows_of(np.full((1, 400), 0.1)), means)
        paired = float((means[1] - means[0]).var(ddof=1)) / 6
        floor = rows_of(np.full((1, 400), 0.1)).error ** 2
        assert found.error**2 - floor == pytest.approx((paired - floor) * (1 + 6 / 5))

    def test_what_rows_explain_adds_nothing(self) -> None:
        rows = rows_of(np.array([[9.0, -9.0] * 20]))
        assert over_folds(rows, self.MEANS).error == rows.error
        level = np.array([[1.0], [2.0]]) + np.array([[0.0, 5.0, -3.0]])
        assert over_folds(rows, level).error == pytest.approx(rows.error)

    def test_equal_methods_and_single_folds_say_nothing(self) -> None:
        rows = rows_of(np.array([[1.0, -1.0] * 20]))
        assert over_folds(rows, self.MEANS[:, :1]) == rows
        assert over_folds(rows, self.MEANS[[0, 0]]) == rows
        assert over_folds(rows, self.MEANS, self.MEANS[[1, 0]]).error == over_folds(rows, self.MEANS).error

    def test_a_method_that_diverged_in_one_fold_says_nothing_of_others(self) -> None:
        rows = rows_of(np.array([[1.0, -1.0] * 20]))
        others = np.array([[1.5, 3.4, 4.1], [1.4, 3.6, 4.2]])
        known = over_folds(rows, self.MEANS, others)
        assert known.error < over_folds(rows, self.MEANS).error, "others that vary less count"
        diverged = np.array([[1.5, 103.4, 4.1]])
        assert over_folds(rows, self.MEANS, np.concatenate([others, diverged])).error == pytest.approx(known.error)
        own = np.array([self.MEANS[0], diverged[0]])
        assert over_folds(rows, own, others).error > 10, "but its own difference is as uncertain as it is"

    def test_the_share_of_the_tunings(self) -> None:
        rows = rows_of(np.array([[1.0, -1.0] * 20]))
        found = over_folds(rows, self.MEANS)
        assert tunings_share(found) == pytest.approx(1 - rows.error**2 / found.error**2)
        assert tunings_share(rows) == 0

    def test_more_rows_do_not_lessen_what_tunings_add(self) -> None:
        found = over_folds(rows_of(np.array([[1.0, -1.0] * 20])), self.MEANS)
        assert isinstance(found.components, FoldedComponents)
        assert found.components.spread(1, 10**6)[0] > math.sqrt(found.components.tunings)
        assert math.isnan(found.groups_needed())
