import math

import numpy as np
import pytest
from numpy.typing import NDArray

from headstart.errors import SettingError
from headstart.ranking.race import Gaps, Race, Raced, Read, as_race, going_on, run_race


def reader(values: NDArray[np.float64], seen: list[tuple[list[int], slice]] | None = None) -> Read:
    """Reads from a table; what was asked for is noted in `seen`."""

    def read(members: object, rows: slice) -> NDArray[np.float64]:
        places = list(members)  # type: ignore[call-overload]
        if seen is not None:
            seen.append((places, rows))
        return values[places, rows]

    return read


def raced(values: NDArray[np.float64], race: Race) -> Raced:
    return run_race(reader(values), modules=len(values), rows=values.shape[1], race=race)


def test_rounds_double_what_has_been_read_and_the_last_is_no_scrap() -> None:
    assert Race(first=4).ends(50) == [4, 8, 16, 32, 50]
    assert Race(first=4).ends(34) == [4, 8, 16, 34]
    assert Race(first=4).ends(3) == [3]
    assert Race(first=5).ends(5) == [5]


def test_a_margin_worked_by_hand() -> None:
    # Differences of the second from the first: 0.1, 0.3, 0.2, 0.4; mean 0.25, s = √(0.05 / 3) = 0.1290994.
    # Four of 16 rows are read: s/√4 · √(1 - 4/16) = 0.0559017, and t(3) at 0.95 is 2.3533634.
    values = np.array([[1.0, 1.0, 1.0, 1.0], [0.9, 0.7, 0.8, 0.6]])
    gaps = Gaps.of(values, rows=16, level=0.05)
    assert gaps.leader == 0
    assert gaps.behind == pytest.approx([0.0, 0.25])
    assert gaps.margin == pytest.approx([0.0, 2.3533634 * 0.0559017], rel=1e-6)


def test_who_cannot_win_leaves_and_reads_no_more() -> None:
    rng = np.random.default_rng(0)
    values = np.vstack([rng.normal(1.0, 0.05, 32), rng.normal(0.97, 0.05, 32), rng.normal(-2.0, 0.05, 32)])
    seen: list[tuple[list[int], slice]] = []
    found = run_race(reader(values, seen), modules=3, rows=32, race=Race(first=4, tie=0))
    left = found.left[2]
    assert left is not None
    assert (left.round, left.why, left.leader) == (1, "behind", 0)
    assert left.behind == pytest.approx(3.0, abs=0.1)
    assert found.rows[2] == 4
    assert [places for places, _ in seen][:2] == [[0, 1, 2], [0, 1]]
    assert found.best == int(np.argmax(values.mean(axis=1)))


def test_copies_are_tied_and_do_not_hold_the_race() -> None:
    values = np.tile(np.random.default_rng(1).normal(size=40), (5, 1))
    found = raced(values, Race(first=4))
    assert [left and left.why for left in found.left] == [None, "tied", "tied", "tied", "tied"]
    assert (found.best, found.rows) == (0, (4,) * 5)


def test_a_module_without_a_value_leaves_as_missing() -> None:
    values = np.random.default_rng(2).normal(size=(4, 16))
    values[1, 0] = math.nan
    values[2, 9] = math.nan
    found = raced(values, Race(first=4, tie=0))
    assert found.left[1] is not None
    assert (found.left[1].why, found.left[1].round, found.rows[1]) == ("missing", 1, 4)
    assert found.left[2] is None or found.left[2].why in ("missing", "behind")
    assert found.best in (0, 3)
    nothing = raced(np.full((3, 8), math.nan), Race())
    assert (nothing.best, nothing.rows) == (None, (4, 4, 4))


@pytest.mark.parametrize("budget", [0.1, 0.2, 0.5])
@pytest.mark.parametrize("rows", [30, 50])
def test_a_budget_is_never_exceeded_and_nearly_used_up(budget: float, rows: int) -> None:
    values = np.random.default_rng(3).normal(size=(400, rows))
    found = raced(values, Race(confidence=1 - 1e-9, budget=budget, tie=0))
    share = sum(found.rows) / values.size
    assert 0.85 * budget < share <= budget
    assert {left.why for left in found.left if left} == {"budget"}
    lost = [index for index, left in enumerate(found.left) if left and left.round == 1]
    kept = sorted(set(range(400)) - set(lost))
    first = values[:, : found.ends[0]].mean(axis=1)
    assert first[lost].max() <= first[kept].min()


def test_long_rows_take_more_of_a_budget() -> None:
    values = np.random.default_rng(4).normal(size=(400, 40))
    costs = np.random.default_rng(5).integers(5, 60, size=40)
    race = Race(confidence=1 - 1e-9, budget=0.2, tie=0)
    found = run_race(reader(values), modules=400, rows=40, race=race, costs=costs)
    spent = sum(int(costs[:read].sum()) for read in found.rows)
    assert 0.17 < spent / (400 * costs.sum()) <= 0.2


def test_how_many_go_on_worked_by_hand() -> None:
    # A share q goes on after every round: 100 q modules read 10 rows and 100 q² read 20. 1,000 q + 2,000 q² = 700 at
    # q = (√(1,000² + 4 · 2,000 · 700) - 1,000) / 4,000 = 0.3923.
    assert going_on(100, [10, 20], 700) == 39
    assert going_on(100, [10, 20], 1e9) == 100
    assert going_on(100, [10, 20], 0) == 1
    # With at least 30 in every round: 10 · 100 q + 20 · 30 = 950 at q = 0.35.
    assert going_on(100, [10, 20], 950, least=30) == 35
    assert going_on(100, [10, 20], 0, least=30) == 30


def test_a_budget_that_does_not_last_for_two_rows_is_refused() -> None:
    with pytest.raises(SettingError) as caught:
        raced(np.zeros((4, 30)), Race(budget=0.05))
    assert str(caught.value) == (
        "a budget of 0.05 does not last for the first 2 of 30 rows; give at least 0.07, or score on more rows"
    )


@pytest.mark.parametrize("seed", range(25))
def test_never_more_is_read_than_in_the_full_pass_and_no_row_twice(seed: int) -> None:
    rng = np.random.default_rng(seed)
    modules, rows = int(rng.integers(1, 40)), int(rng.integers(2, 60))
    values = rng.normal(size=(modules, rows)) + rng.normal(size=(modules, 1))
    seen: list[tuple[list[int], slice]] = []
    race = Race(confidence=float(rng.uniform(0.5, 0.99)), first=int(rng.integers(2, 9)))
    found = run_race(reader(values, seen), modules=modules, rows=rows, race=race)
    read = np.zeros((modules, rows), dtype=int)
    for places, each in seen:
        read[places, each] += 1
    assert read.max() == 1
    assert tuple(read.sum(axis=1)) == found.rows
    assert found.best is not None
    assert found.left[found.best] is None


def test_the_race_ends_with_the_best_of_all_rows_if_nobody_leaves() -> None:
    values = np.random.default_rng(5).normal(size=(6, 20))
    found = raced(values, Race(confidence=1 - 1e-12, tie=0))
    assert found.left == (None,) * 6
    assert found.best == int(np.argmax(values.mean(axis=1)))


def test_whoever_others_were_tied_with_does_not_leave_for_a_tie() -> None:
    # Two groups of copies: were both leaders to leave for a tie in turn, the ties would add up.
    rng = np.random.default_rng(6)
    base = rng.normal(size=64)
    drift = np.r_[np.full(8, 0.002), np.full(56, -0.002)]
    values = np.vstack([base, base, base - drift, base - drift])
    found = raced(values, Race(first=4, tie=0.5))
    whys = [left.why for left in found.left if left is not None]
    assert whys.count("tied") >= 1
    best = values.mean(axis=1).max()
    error = base.std(ddof=1) / 8
    assert found.best is not None
    assert values[found.best].mean() >= best - 0.5 * error


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"confidence": 1.0}, "confidence 1.0 must be above 0 and below 1; give for example 0.95"),
        ({"first": 1}, "first 1 must be at least 2: differences of one row tell no spread"),
        ({"budget": 1.5}, "budget 1.5 must be above 0 and below 1; give for example 0.2, or leave it out"),
        ({"tie": -1.0}, "tie -1.0 must be 0 or more; 0 counts every difference"),
        ({"winners": 0}, "a race has at least one winner, not 0; leave winners out for one"),
    ],
)
def test_settings_that_cannot_be_are_refused(settings: dict[str, float], message: str) -> None:
    with pytest.raises(SettingError) as caught:
        Race(**settings)  # type: ignore[arg-type]
    assert str(caught.value) == message


def test_race_is_a_yes_a_no_or_how() -> None:
    assert (as_race(False), as_race(True), as_race(Race(first=8))) == (None, Race(), Race(first=8))
    with pytest.raises(SettingError, match="give True, or a Race"):
        as_race("yes")  # type: ignore[arg-type]


def simulated(kind: str, rng: np.random.Generator) -> NDArray[np.float64]:
    """A table of 40 modules and 30 rows with known means: those of its rows, which are all that there is."""
    rows = rng.normal(size=30)
    if kind == "equal":  # in the population, so that only the rows at hand say who is best
        return rows + rng.normal(size=(40, 30))
    if kind == "apart":
        return rows + rng.normal(size=(40, 30)) + rng.normal(size=(40, 1))
    if kind == "probabilities":
        hidden = 2 * rows + 0.5 * rng.normal(size=(40, 1)) + 0.5 * rng.normal(size=(40, 30))
        return 1 / (1 + np.exp(-hidden))
    groups = rows + rng.normal(size=(8, 30)) + 0.3 * rng.normal(size=(8, 1))  # five near-duplicates of eight modules
    return np.repeat(groups, 5, axis=0) + 0.02 * rng.normal(size=(40, 30))


@pytest.mark.parametrize("kind", ["equal", "apart", "probabilities", "near"])
@pytest.mark.parametrize("confidence", [0.8, 0.95])
def test_the_stated_confidence_holds(kind: str, confidence: float) -> None:
    trials, wrong, read = 250, 0, 0
    for seed in range(trials):
        values = simulated(kind, np.random.default_rng(seed))
        found = raced(values, Race(confidence=confidence))
        means = values.mean(axis=1)
        best = int(means.argmax())
        tie = 0.1 * values[best].std(ddof=1) / np.sqrt(30)
        assert found.best is not None
        wrong += means[found.best] < means[best] - tie
        read += sum(found.rows)
    # The level is shared out over all modules and rounds, so far fewer go wrong than may.
    assert wrong / trials <= 1 - confidence
    assert read / trials < 40 * 30 * (0.5 if kind == "apart" else 1.0)


@pytest.mark.parametrize(
    ("tie", "drift", "noise", "seed"), [(0.3, 0.01, 0.05, 80), (0.3, 0.03, 0.2, 80), (1.0, 0.03, 0.05, 6)]
)
def test_no_module_leaves_for_two_ties_on_the_way_to_the_winner(
    tie: float, drift: float, noise: float, seed: int
) -> None:
    # Modules that become better or worse from row to row, so that the leader changes.
    rng = np.random.default_rng(seed)
    means = np.cumsum(drift * rng.normal(size=(10, 128)), axis=1)
    values = rng.normal(size=128) + means + noise * rng.exponential(size=(10, 1)) * rng.normal(size=(10, 128))
    found = raced(values, Race(tie=tie, confidence=0.6))
    for first in range(10):
        ties, place = 0, first
        while (left := found.left[place]) is not None and left.leader is not None:
            ties += left.why == "tied"
            place = left.leader
        assert ties <= 1


@pytest.mark.parametrize("steps", [0, 4])
def test_rows_that_all_agree_are_no_proof_that_all_rows_would(steps: int) -> None:
    trials, wrong = 100, 0
    for seed in range(trials):
        rng = np.random.default_rng(seed)
        right = rng.random((16, 40)) < rng.uniform(0.5, 0.95, size=(16, 1))
        values = np.where(right, 1.0, np.floor(rng.random((16, 40)) * steps) / (steps + 1))  # partly right, if steps
        found = raced(values, Race())
        means = values.mean(axis=1)
        tie = 0.1 * values[means.argmax()].std(ddof=1) / np.sqrt(40)
        assert found.best is not None
        wrong += means[found.best] < means.max() - tie
    assert wrong / trials <= 0.05


def test_a_margin_of_right_and_wrong_worked_by_hand() -> None:
    # Differences 1, 1, 0, 1, and one more of 1 and of -1: squares 5 / 6, mean 3 / 6, so that the standard error is
    # √((5/6 - 1/4) / 6) · √(1 - 4/16) = 0.2700309, and t(3) at 0.95 is 2.3533634.
    gaps = Gaps.of(np.array([[1.0, 1.0, 1.0, 1.0], [0.0, 0.0, 1.0, 0.0]]), rows=16, level=0.05)
    assert gaps.behind == pytest.approx([0.0, 0.75])
    assert gaps.margin[1] == pytest.approx(2.3533634 * 0.2700309, rel=1e-6)
    # Where every module is right on every row, nothing is known of how they differ.
    assert Gaps.of(np.ones((3, 4)), rows=16, level=0.05).margin.tolist() == [np.inf] * 3


def test_several_winners_read_all_rows_and_are_the_best_of_them() -> None:
    rng = np.random.default_rng(7)
    values = np.vstack([rng.normal(level, 0.05, 32) for level in (1.0, -2.0, 0.8, -2.0, 0.6, -3.0)])
    found = raced(values, Race(winners=3))
    assert found.winners == (0, 2, 4)
    assert found.best == 0
    assert [left is None for left in found.left] == [True, False, True, False, True, False]
    assert found.rows == (32, 4, 32, 4, 32, 4)
    worst = found.left[5]
    assert worst is not None
    assert worst.leader == 4  # the last of the leaders: only who is behind all of them leaves
    everyone = raced(values, Race(winners=9))
    assert everyone.left == (None,) * 6
    assert everyone.winners == tuple(np.argsort(-values.mean(axis=1)).tolist())


def test_a_budget_lasts_for_the_winners() -> None:
    values = np.random.default_rng(8).normal(size=(400, 40)) + np.random.default_rng(9).normal(size=(400, 1))
    found = raced(values, Race(budget=0.2, winners=16))
    assert len(found.winners) == 16
    assert all(found.rows[index] == 40 for index in found.winners)
    assert sum(found.rows) <= 0.2 * values.size


@pytest.mark.parametrize("kind", ["equal", "apart", "probabilities", "near"])
def test_the_stated_confidence_holds_for_several_winners(kind: str) -> None:
    trials, wrong, read = 200, 0, 0
    for seed in range(trials):
        values = simulated(kind, np.random.default_rng(seed))
        found = raced(values, Race(confidence=0.8, winners=5))
        means = values.mean(axis=1)
        fifth = int(np.argsort(-means)[4])
        tie = 0.1 * values[fifth].std(ddof=1) / np.sqrt(30)
        assert len(found.winners) == 5
        wrong += means[list(found.winners)].min() < means[fifth] - tie
        read += sum(found.rows)
    assert wrong / trials <= 0.2
    assert read / trials < 40 * 30 * (0.75 if kind == "apart" else 1.0)
