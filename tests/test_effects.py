"""Wins, losses and what is undecided, from the answers of a comparison to single rows; and what it advises."""

import gc
import math
import weakref
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import pytest

from comparison_example import answered, examples_frame, make_comparison, scores_frame
from headstart.comparing.comparison import Comparison
from headstart.comparing.decision import decide
from headstart.comparing.effects import COLUMNS, effects, mean_scores
from headstart.comparing.samples import samples
from headstart.tasks import METRICS, Metric


def right(level: float, *, seeds: int = 3, rows: int = 200, noise: float = 0.3, seed: int = 0) -> np.ndarray:
    """Whether answers are right: this share of the rows, the same easy ones by and large on every seed."""
    draw = np.random.default_rng([seed, round(1000 * level)])
    ease = np.linspace(2, -2, rows)[np.random.default_rng(0).permutation(rows)]
    order = [np.argsort(-(ease + noise * draw.standard_normal(rows))) for _ in range(seeds)]
    return np.array([np.isin(range(rows), each[: round(level * rows)]) for each in order])


def tuned(**levels: float) -> Comparison:
    """Methods with these accuracies after tuning."""
    return answered({(method, "tuned"): right(level) for method, level in levels.items()})


def row(comparison: Comparison, method: str, other: str = "scratch", stage: str = "tuned") -> dict[str, Any]:
    table = effects(comparison)
    found = table[(table["stage"] == stage) & (table["method"] == method) & (table["other"] == other)]
    assert len(found) == 1
    return found.iloc[0].to_dict()


def test_every_two_methods_are_compared_both_ways_round() -> None:
    table = effects(make_comparison())
    assert tuple(table.columns) == COLUMNS
    assert len(table) == 2 * 5 * 4
    turned = table.rename(columns={"method": "other", "other": "method"})
    both = table.merge(turned, on=["stage", "method", "other"], suffixes=("", "_turned"))
    assert len(both) == len(table)
    np.testing.assert_allclose(both["difference"], -both["difference_turned"])
    np.testing.assert_allclose(both["low"], -both["high_turned"])
    for name in ("p", "adjusted", "smallest", "seeds_needed", "rows_needed"):
        np.testing.assert_array_equal(both[name], both[f"{name}_turned"])
    outcomes = both["outcome"].map({"win": "loss", "loss": "win"}).fillna(both["outcome"])
    assert list(outcomes) == list(both["outcome_turned"])


def test_a_constant_gain_is_a_win_and_a_little_more_in_one_seed_changes_nothing() -> None:
    base = right(0.4, noise=0.0)
    better = right(0.7, noise=0.0)
    found = row(answered({("scratch", "tuned"): base, ("ensemble", "tuned"): better}), "ensemble")
    assert found["difference"] == pytest.approx(0.3)
    assert (found["outcome"], found["scope"], found["seeds"]) == ("win", "over these seeds", 3)
    better[1, np.flatnonzero(~better[1])[0]] = True
    other = row(answered({("scratch", "tuned"): base, ("ensemble", "tuned"): better}), "ensemble")
    assert other["outcome"] == "win"
    assert other["low"] == pytest.approx(found["low"], abs=0.01)


def test_a_gain_on_few_rows_is_undecided_however_alike_the_seeds_are() -> None:
    base, better = np.zeros((3, 20), bool), np.zeros((3, 20), bool)
    base[:, :10] = better[:, :12] = True
    found = row(answered({("scratch", "tuned"): base, ("ensemble", "tuned"): better}), "ensemble")
    assert found["outcome"] == "undecided"
    assert found["low"] < 0 < found["high"]
    assert found["smallest"] > 0.1
    assert found["rows_needed"] > 20
    assert math.isnan(found["seeds_needed"]), "other seeds would show the same rows"


def test_one_seed_is_enough_for_these_rows_and_this_seed() -> None:
    found = row(answered({("scratch", "tuned"): right(0.4, seeds=1), ("mine", "tuned"): right(0.8, seeds=1)}), "mine")
    assert (found["outcome"], found["scope"], found["seeds"], found["rows"]) == ("win", "over these seeds", 1, 200)


def test_from_six_seeds_on_it_is_about_all_seeds() -> None:
    draw = np.random.default_rng(3)
    levels = 0.6 + 0.08 * draw.standard_normal(6)
    own = np.concatenate([right(level, seeds=1) for level in levels])
    values = {("scratch", "tuned"): right(0.58, seeds=6), ("mine", "tuned"): own}
    found = row(answered(values), "mine")
    assert found["scope"] == "over seeds"
    five = row(answered({key: table[:5] for key, table in values.items()}), "mine")
    assert five["high"] - five["low"] < found["high"] - found["low"]


def test_an_outcome_never_contradicts_its_interval() -> None:
    for seed in range(6):
        draw = np.random.default_rng(seed)
        levels = {f"m{number}": 0.5 + 0.12 * draw.random() for number in range(4)} | {"scratch": 0.5}
        table = effects(
            answered({(name, "tuned"): right(level, seed=seed, seeds=2) for name, level in levels.items()})
        ).query("outcome != 'not measured'")
        claimed = table["outcome"].isin(["win", "loss"])
        excluded = (table["low"] > 0) | (table["high"] < 0)
        assert (excluded | ~claimed).all(), "a win or a loss has an interval without 0"
        said = table["reason"].str.contains("the interval leaves out 0, but not after the correction for")
        assert list(said) == list(excluded & ~claimed), "and where only the correction is why, it says so"


def test_the_correction_is_holms_within_a_stage_and_a_question() -> None:
    comparison = tuned(scratch=0.5, average=0.54, best_single=0.56, ensemble=0.6)
    against = [row(comparison, method) for method in ("average", "best_single", "ensemble")]
    largest, smallest = max(against, key=lambda each: each["p"]), min(against, key=lambda each: each["p"])
    assert smallest["adjusted"] == pytest.approx(3 * smallest["p"])
    assert largest["adjusted"] >= largest["p"]


def test_methods_with_the_same_start_are_one() -> None:
    starts = make_comparison().starts
    same = starts[starts["method"] == "best_single"].assign(method="ensemble")
    both = pd.concat([starts[starts["method"] != "ensemble"], same], ignore_index=True)
    table = right(0.7)
    comparison = answered({("best_single", "tuned"): table, ("ensemble", "tuned"): table}, starts=both)
    found = row(comparison, "ensemble", "best_single")
    assert (found["outcome"], found["reason"]) == ("not measured", "both begin from the very same module")


def test_equal_answers_are_undecided_within_what_so_many_rows_can_show() -> None:
    table = right(0.7)
    found = row(answered({("scratch", "tuned"): table, ("ensemble", "tuned"): table}), "ensemble")
    assert (found["difference"], found["outcome"]) == (0.0, "undecided")
    assert found["high"] == pytest.approx(1.972 * math.sqrt(4 / 3) / 202, rel=1e-3)
    assert found["reason"] == "both answered every row equally well"


def test_without_answers_nothing_is_claimed() -> None:
    scores = {(method, "tuned"): [level] * 3 for method, level in (("scratch", 0.4), ("ensemble", 0.9))}
    found = row(make_comparison(scores=scores_frame(scores)), "ensemble")
    assert (found["difference"], found["outcome"]) == (pytest.approx(0.5), "undecided")
    assert found["reason"] == "the record holds no answers to single rows; compare again to have them"


def test_a_missing_seed_leaves_the_others() -> None:
    comparison = answered({("scratch", "tuned"): right(0.4), ("mine", "tuned"): right(0.8)})
    scores = comparison.scores.copy()
    scores.loc[(scores["method"] == "mine") & (scores["seed"] == 1), ["score", "reason"]] = [math.nan, "diverged"]
    found = row(make_comparison(scores=scores, answers=comparison.answers, examples=comparison.examples), "mine")
    assert (found["outcome"], found["seeds"], found["reason"]) == ("win", 2, "seed 1: diverged")
    absent = row(comparison, "random")
    assert (absent["outcome"], absent["reason"]) == ("not measured", "random was not run")


def test_rows_of_one_group_say_less() -> None:
    values = {("scratch", "tuned"): right(0.5, seeds=1), ("mine", "tuned"): right(0.6, seeds=1)}
    order = np.argsort(values["mine", "tuned"][0].astype(int) - values["scratch", "tuned"][0])
    groups = [""] * 200
    for place, index in enumerate(order):  # rows with the same difference are of the same group
        groups[index] = f"g{place // 10}"
    alone, grouped = answered(values), answered(values, examples=examples_frame(200, groups=groups))
    assert row(grouped, "mine")["high"] > row(alone, "mine")["high"] + 0.02


def test_a_metric_that_says_nothing_of_rows_is_scored_anew_on_every_draw(monkeypatch: pytest.MonkeyPatch) -> None:
    comparison = answered({("scratch", "tuned"): right(0.5, rows=40), ("mine", "tuned"): right(0.7, rows=40)})
    sums = row(comparison, "mine")
    monkeypatch.setitem(METRICS._loaded, "ACC", Metric("ACC", METRICS["ACC"].formula))
    plain = make_comparison(scores=comparison.scores, answers=comparison.answers, examples=comparison.examples)
    lists = row(plain, "mine")
    assert lists["difference"] == pytest.approx(sums["difference"])
    assert lists["high"] - lists["low"] == pytest.approx(sums["high"] - sums["low"], rel=0.15)


def test_the_mean_score_has_an_interval_over_rows() -> None:
    comparison = answered({("mine", "tuned"): right(0.6, noise=0.0)})
    found = mean_scores(comparison).query("method == 'mine' and stage == 'tuned'").iloc[0]
    # √(0.6·0.4/199) = 0.03473, t(0.975, 199) = 1.97196: the same rows on all seeds
    assert found["score"] == pytest.approx(0.6)
    assert found["high"] - found["score"] == pytest.approx(0.06848, rel=0.03)


class TestDecision:
    def test_the_best_start_that_wins_is_used(self) -> None:
        found = decide(make_comparison())
        assert (found.choice, found.method, found.remedy) == ("use", "ensemble", "")
        assert found.low > 0
        assert found.sentence.startswith("Use this start: the ensemble. The ensemble, the method ahead, is 0.1")
        assert "over these 3 seeds and 200 rows" in found.sentence
        assert "It beats the random module (+0.1" in found.sentence
        assert "not shown" not in found.sentence
        assert found.cost == (
            "tuning took 12.5 s a seed, 12.5 s from scratch; with the scores of the hub's modules it read 84,000 "
            "tokens forward and 60,000 back a seed, from scratch 70,000 tokens forward and 60,000 back"
        )

    def test_a_gain_that_a_random_module_may_have_too_is_no_proof_that_the_hub_helps(self) -> None:
        found = decide(tuned(scratch=0.4, random=0.69, average=0.7, best_single=0.695, ensemble=0.6))
        assert (found.choice, found.method) == ("use", "average")
        assert (
            "rows). It is not told apart from the random module (+0.010), a start of equal size, so that the hub's "
            "modules help is not shown. It is not told apart from the best single module (+0.005)." in found.sentence
        )
        without = decide(tuned(scratch=0.4, average=0.7)).sentence
        assert without.endswith("It was not compared with a random module, so that the hub helps is not shown.")

    def test_the_best_single_module_is_named_whatever_its_label(self) -> None:
        starts = make_comparison().starts.replace({"method": {"best_single": "one", "random": "noise"}})
        levels = {"scratch": 0.4, "noise": 0.45, "one": 0.69, "ensemble": 0.7}
        found = decide(answered({(name, "tuned"): right(level) for name, level in levels.items()}, starts=starts))
        assert "It beats 'noise' (+0.250); it is not told apart from 'one' (+0.010)." in found.sentence

    def test_a_start_that_tunes_more_parameters_is_said_to(self) -> None:
        example = make_comparison()
        assert "parameters" not in decide(example).sentence
        starts = example.starts.copy()
        starts.loc[starts["method"] == "ensemble", "parameters"] *= 5
        sentence = decide(make_comparison(starts=starts)).sentence
        assert "It tunes 5.0 times as many parameters as scratch, so part of this may be its size." in sentence

    def test_the_average_is_named_where_it_is_ahead(self) -> None:
        found = decide(tuned(scratch=0.4, random=0.41, average=0.72, ensemble=0.7))
        assert (found.choice, found.method) == ("use", "average")
        assert "The average, the method ahead," in found.sentence

    def test_a_gain_of_the_random_module_is_no_merit_of_the_hub(self) -> None:
        found = decide(tuned(scratch=0.4, random=0.8, average=0.6, ensemble=0.6))
        assert found.choice == "fresh"
        assert "Every start loses to the random module." in found.sentence

    def test_the_random_module_is_known_under_another_label(self) -> None:
        starts = make_comparison().starts.replace({"method": {"random": "noise"}})
        values = {("scratch", "tuned"): right(0.4), ("noise", "tuned"): right(0.8), ("mine", "tuned"): right(0.6)}
        assert decide(answered(values, starts=starts)).choice == "fresh"

    def test_fresh_is_said_only_where_every_gain_is_certainly_small(self) -> None:
        rows = 6_000
        levels = {"scratch": 0.6, "average": 0.601, "ensemble": 0.598}
        values = {(name, "tuned"): right(level, seeds=1, rows=rows) for name, level in levels.items()}
        found = decide(answered(values))
        assert found.choice == "fresh"
        assert found.sentence.startswith(
            "Train fresh: the hub has nothing for this task. No method gains as much as 0.02 ACC over scratch. "
            "The average, the method ahead, is 0.001 ACC above scratch after tuning (95 % interval −0.00"
        )
        few = decide(answered({key: table[:, :150] for key, table in values.items()}))
        assert few.choice == "undecided"

    def test_a_leader_that_is_scratch_itself_is_no_start(self) -> None:
        starts = make_comparison().starts
        own = {name: set(starts.loc[starts["method"] == name, "digest"]) for name in ("scratch", "ensemble")}
        assert own["scratch"] != own["ensemble"]
        same = starts.assign(digest=starts["digest"].where(starts["method"] != "ensemble", "same"))
        same = same.assign(digest=same["digest"].where(same["method"] != "scratch", "same"))
        levels = {"scratch": 0.8, "random": 0.7, "average": 0.4, "ensemble": 0.8}
        values = {(name, "tuned"): right(level) for name, level in levels.items()}
        assert decide(answered(values, starts=same)).choice == "fresh"

    def test_what_would_decide_is_said(self) -> None:
        found = decide(tuned(scratch=0.5, average=0.52, ensemble=0.51))
        assert (found.choice, found.method) == ("undecided", "average")
        assert found.sentence.startswith("Cannot tell yet. The average, the method ahead, is 0.02")
        assert "more test rows would show a difference like this one, in 80 of 100 studies." in found.remedy
        compared = row(tuned(scratch=0.5, average=0.52, ensemble=0.51), "average")
        seeds, rows = compared["seeds_needed"] - 3, compared["rows_needed"] - 200
        assert found.needed == f"{seeds:.0f} more seeds or {rows:,.0f} more test rows"
        assert found.remedy.startswith(f"{found.needed} would show a difference")
        assert decide(tuned(scratch=0.5, ensemble=0.8)).needed == ""

    def test_where_nothing_would_that_is_said_too(self) -> None:
        table = right(0.5, rows=50)
        found = decide(answered({("scratch", "tuned"): table, ("ensemble", "tuned"): table}))
        assert (
            found.remedy == "Neither 100 seeds nor 100,000 test rows would show a difference as small as the one seen."
        )
        assert found.needed == ""

    def test_scratch_is_needed(self) -> None:
        found = decide(tuned(average=0.5, ensemble=0.6))
        assert (found.choice, found.remedy) == ("undecided", "Compare with the method 'scratch' too.")
        nothing = decide(tuned(scratch=0.5))
        assert (nothing.choice, nothing.method, nothing.sentence) == (
            "undecided", "", "Cannot tell: no start was tuned and tested."
        )  # fmt: skip

    def test_the_random_module_alone_says_nothing_of_the_hub(self) -> None:
        for level in (0.3, 0.9):
            found = decide(tuned(scratch=0.6, random=level))
            assert (found.choice, found.sentence) == (
                "undecided", "Cannot tell: no start was made of the hub's modules."
            )  # fmt: skip
            assert found.remedy == "Compare 'ensemble' or 'average' too."

    @pytest.mark.parametrize("gone", [["ensemble"], ["scratch"], ["scratch", "random", "ensemble"]])
    def test_starts_without_a_score_are_no_worse_than_noise(self, gone: list[str]) -> None:
        whole = tuned(scratch=0.5, random=0.5, ensemble=0.8)
        scores = whole.scores.copy()
        lost = scores["method"].isin(gone)
        scores.loc[lost, ["score", "reason"]] = [math.nan, "it diverged"]
        settings = whole.settings | {"methods": ["scratch", "random", "ensemble"]}
        found = decide(replace(whole, scores=scores, settings=settings))
        assert (found.choice, found.remedy) == ("undecided", "Correct what the reasons name, and compare again.")
        assert found.sentence.startswith(
            "Cannot tell: no start has a score to compare with that of scratch (the ensemble: no seed has both scores; "
        )
        assert "it diverged" in found.sentence

    def test_a_leader_that_begins_as_scratch_hides_no_other(self) -> None:
        whole = tuned(scratch=0.8, average=0.8, ensemble=0.3)
        starts = whole.starts.copy()
        starts.loc[starts["method"] == "average", "digest"] = list(starts.loc[starts["method"] == "scratch", "digest"])
        found = decide(replace(whole, starts=starts))
        assert (found.choice, found.method) == ("fresh", "ensemble")

    def test_an_old_record_says_that_it_has_no_answers(self) -> None:
        scores = {(method, "tuned"): [level] * 3 for method, level in (("scratch", 0.4), ("ensemble", 0.9))}
        found = decide(make_comparison(scores=scores_frame(scores)))
        assert found.choice == "undecided"
        assert found.remedy == "The record holds no answers to single rows; compare again to have them."


def test_effects_follow_a_change_in_place() -> None:
    comparison = tuned(scratch=0.5, ensemble=0.6)
    before = row(comparison, "ensemble")
    mine = comparison.answers["method"] == "ensemble"
    comparison.answers.loc[mine, "prediction"] = list(
        comparison.answers.loc[comparison.answers["method"] == "scratch", "prediction"]
    )
    comparison.scores.loc[comparison.scores["method"] == "ensemble", "score"] = 0.5
    assert before["difference"] == pytest.approx(0.1)
    assert row(comparison, "ensemble")["difference"] == 0


def test_what_is_computed_of_a_comparison_does_not_keep_it() -> None:
    comparison = tuned(scratch=0.5, ensemble=0.6)
    assert samples(comparison) is samples(comparison)
    assert effects(comparison) is not effects(comparison)
    gone = weakref.ref(comparison)
    decide(comparison)
    del comparison
    gc.collect()
    assert gone() is None
