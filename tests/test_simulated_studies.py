"""A small version of benchmarks/intervals.py: where the truth is known, intervals hold it and claims are true."""

from dataclasses import replace

import numpy as np
import pytest
from benchmarks.intervals import Setting, measure, studies, true_differences

from headstart.statistics.differences import Difference

COUNT = 200
ten = Setting(seeds=10, rows=60)
SETTINGS = {
    "three seeds": Setting(seeds=3, rows=100, seed=0.0),
    "one seed, macro F1": Setting("Classification-F1", seeds=1, rows=100, effect=0.5),
    "ten seeds, Pearson": replace(ten, metric="Pearson-Correlation", effect=0.5),
    "ten seeds, groups": replace(ten, rows=100, group=5),
    "seeds differ much": replace(ten, seed=0.5),
    "four comparisons": replace(ten, seeds=6, methods=5),
}


@pytest.mark.parametrize("name", SETTINGS)
def test_intervals_hold_the_truth_and_false_claims_are_rare(name: str) -> None:
    found = measure(SETTINGS[name], COUNT)
    # 200 studies: 0.95 ± three standard errors of 0.0154, and as much above 0.05.
    assert found["covered"] > 0.95 - 0.046
    assert found["false_claims"] < 0.05 + 0.046
    assert found["false_wins"] <= found["false_claims"]


def test_the_check_sees_intervals_that_leave_out_the_seeds() -> None:
    def blind(found: Difference) -> bool:
        error = found.components.spread(5, found.groups)[0]
        return abs(found.mean) <= 1.96 * error

    setting = replace(ten, seed=0.5)
    held = [blind(found[0]) for found, _ in studies(setting, COUNT)]
    assert np.mean(held) < 0.85


def test_a_true_gain_is_shown() -> None:
    assert measure(Setting(seeds=3, rows=150, effect=0.8), COUNT)["shown"] > 0.9


def test_the_truth_is_that_of_many_rows() -> None:
    setting = Setting("Classification-F1", seeds=3, rows=40_000, effect=0.5)
    ((found,), (true,)) = next(iter(studies(setting, 1)))
    assert found.mean == pytest.approx(true, abs=0.01)
    over = replace(setting, seeds=400, rows=400, metric="Pearson-Correlation", seed=0.1)
    levels = 1 + np.array([[0.0], [0.5]]) + np.sqrt(0.1) * np.random.default_rng(0).standard_normal((2, 400))
    (these,) = true_differences(replace(over, seeds=5), levels)
    (all_,) = true_differences(over, levels)
    assert these == pytest.approx(all_, abs=0.03)
