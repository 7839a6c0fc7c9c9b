"""Measures of rankings: hand-worked numbers, naive references over all orders, and invariances."""

import itertools
import math

import numpy as np
import pandas as pd
import pytest

from headstart.errors import SettingError
from headstart.ranking.evaluation import evaluate_ranking, popularity

TARGETS = ["x", "y"]


def frame(*rows: list[float], columns: str = "abcdef") -> pd.DataFrame:
    return pd.DataFrame(list(rows), index=TARGETS[: len(rows)], columns=list(columns)[: len(rows[0])])


def one(predicted: list[float], true: list[float], **how: object) -> pd.Series:
    """The measures of one ranking of one target."""
    found = evaluate_ranking(frame(predicted), frame(true), draws=50, **how)  # type: ignore[arg-type]
    return found.by_target.set_index("ranker").loc["predicted"]


def test_hand_worked() -> None:
    # Order by prediction: c, a, b, d with transfer 0.5, 0.7, 0.6, 0.4; the baseline is 0.5.
    found = one([3.0, 2.0, 4.0, 1.0], [0.7, 0.6, 0.5, 0.4], baseline=0.5)
    assert found["rho"] == 2
    # Gains in that order: 0, 0.2, 0.1, 0 (d's loss counts as none); discounts 1, 1/log2(3), 1/2, 1/log2(5).
    assert found["ndcg"] == pytest.approx((0.2 / math.log2(3) + 0.1 / 2) / (0.2 + 0.1 / math.log2(3)))
    assert found["regret@1"] == pytest.approx(0.2)
    assert found["regret@3"] == 0
    assert found["regret@1 share"] == pytest.approx(0.2 / 0.7)
    # Ranks of prediction 3, 2, 4, 1 and of transfer 4, 3, 2, 1: 1 − 6·Σd² / (n(n² − 1)) with Σd² = 1 + 1 + 4 + 0.
    assert found["spearman"] == pytest.approx(1 - 6 * 6 / (4 * 15))


def test_a_perfect_ranking_is_perfect_and_a_shift_changes_nothing() -> None:
    generator = np.random.default_rng(0)
    for _ in range(20):
        true = generator.normal(size=6).tolist()
        found = one([5 * value + 2 for value in true], true)
        assert (found["rho"], found["ndcg"], found["regret@1"], found["spearman"]) == pytest.approx((1, 1, 0, 1))


@pytest.mark.parametrize("seed", range(8))
def test_equal_predictions_count_with_the_mean_over_their_orders(seed: int) -> None:
    generator = np.random.default_rng(seed)
    predicted = generator.integers(0, 3, size=5).astype(float)
    true = generator.integers(-2, 5, size=5) / 4
    true[0] = 2.0  # one is truly the best
    found = one(predicted.tolist(), true.tolist(), ks=(1, 2, 3))
    orders = [
        order
        for order in itertools.permutations(range(5))
        if all(predicted[one] >= predicted[other] for one, other in itertools.pairwise(order))
    ]
    gains = np.maximum(true, 0)
    discounts = 1 / np.log2(np.arange(5) + 2)
    ideal = np.sort(gains)[::-1] @ discounts
    assert found["ndcg"] == pytest.approx(np.mean([gains[list(order)] @ discounts / ideal for order in orders]))
    assert found["rho"] == pytest.approx(np.mean([order.index(0) + 1 for order in orders]))
    for k in (1, 2, 3):
        expected = np.mean([2.0 - max(true[list(order[:k])]) for order in orders])
        assert found[f"regret@{k}"] == pytest.approx(expected)


def test_random_is_the_mean_over_all_orders() -> None:
    true = [0.9, 0.1, 0.4, 0.0]
    found = evaluate_ranking(frame([1.0, 2.0, 3.0, 4.0]), frame(true)).by_target.set_index("ranker").loc["random"]
    orders = list(itertools.permutations(true))
    discounts = 1 / np.log2(np.arange(4) + 2)
    ideal = np.sort(true)[::-1] @ discounts
    assert found["rho"] == 2.5
    assert found["ndcg"] == pytest.approx(np.mean([np.array(order) @ discounts / ideal for order in orders]))
    assert found["regret@3"] == pytest.approx(np.mean([0.9 - max(order[:3]) for order in orders]))
    assert found["spearman"] == 0


def test_popularity_leaves_the_target_out() -> None:
    gains = pd.DataFrame({"a": [0.9, 0.0, 0.0], "b": [0.1, 0.2, np.nan]}, index=["x", "y", "z"])
    found = popularity(gains)
    assert found["a"].tolist() == [0.0, 0.45, 0.45]
    assert found["b"].tolist() == pytest.approx([0.2, 0.1, 0.15])
    # On x, a is the best, but was of no use elsewhere.
    table = evaluate_ranking(gains, gains).by_target.set_index(["ranker", "target"])
    assert table.loc[("popularity", "x"), "rho"] == 2
    assert table.loc[("popularity", "z"), "sources"] == 1


def test_within_families_by_hand() -> None:
    sources = list("abc")
    true = pd.DataFrame([[0.3, 0.6, 1.0], [0.1, 0.1, 0.4], [0.0, 0.6, 0.2]], index=list("xyz"), columns=sources)
    guess = pd.DataFrame([[3.0, 2.0, 9.0]] * 3, index=true.index, columns=sources)
    families = {"x": "nli", "a": "nli", "b": "nli", "y": "qa", "c": "qa", "z": "summary"}
    start = pd.Series([0.1, 0.0, 0.0], index=true.index)
    found = evaluate_ranking(guess, true, baseline=start, families=families, draws=50)
    # z has no source of its family. Those of x are a and b, which gain 0.2 and 0.5; a is ranked first. y has c alone.
    own = found.by_target.set_index(["ranker", "target"])
    assert own.loc["predicted"].index.tolist() == ["x", "y"]
    assert own.loc[("predicted", "x"), ["sources", "rho", "regret@1", "spearman"]].tolist() == pytest.approx(
        [2, 2, 0.3, -1]
    )
    assert own.loc[("predicted", "x"), "ndcg"] == pytest.approx((0.2 + 0.5 / math.log2(3)) / (0.5 + 0.2 / math.log2(3)))
    assert own.loc[("predicted", "y"), ["sources", "rho"]].tolist() == [1, 1]
    assert found.mean("rho")[["predicted", "random"]].tolist() == [1.5, 1.25]
    # On y and z, b gained 0.35 on average, and a 0.05: popularity reads what sources gave to other families, too.
    assert own.loc[("popularity", "x"), "rho"] == 1
    # A single family, but for a task that has none, is all.
    alike = dict.fromkeys("xyzabc", "one")
    assert evaluate_ranking(guess, true, families=alike).by_target.equals(evaluate_ranking(guess, true).by_target)
    unknown = evaluate_ranking(guess, true, families=alike | {"x": "", "a": ""})
    assert unknown.by_target["target"].unique().tolist() == ["y", "z"]
    assert set(unknown.by_target["sources"]) == {2}


def test_where_nothing_is_gained_every_order_is_ideal() -> None:
    found = evaluate_ranking(
        frame([1.0, 2.0], [2.0, 1.0]), frame([-0.1, -0.2], [0.2, 0.1]), baseline=pd.Series([0.0, 0.1], TARGETS)
    )
    assert found.idle == ("x",)
    assert found.by_target["ndcg"].tolist()[:2] == [1.0, 1.0]
    assert math.isnan(found.by_target["regret@1 share"][0])  # the best is negative: there is no share of it


def test_of_several_best_the_one_ranked_first_counts_and_what_has_no_score_comes_last() -> None:
    assert one([1.0, 3.0, 2.0], [0.5, 0.1, 0.5])["rho"] == 2
    assert one([math.nan, 0.1, -5.0], [0.9, 0.2, 0.1])["rho"] == 3


def test_known_rankers_and_intervals() -> None:
    generator = np.random.default_rng(1)
    true = pd.DataFrame(generator.normal(size=(12, 5)), columns=list("abcde"))
    noisy = true + generator.normal(size=true.shape)
    sizes = pd.Series(range(5), index=list("abcde"))
    found = evaluate_ranking({"noisy": noisy, "true": true}, true, known={"rows": sizes}, draws=500)
    assert found.rankers == ("noisy", "true", "rows", "random", "popularity")
    table = found.table().set_index(["ranker", "measure"])
    assert table.loc[("true", "ndcg")].tolist() == pytest.approx([1.0, 1.0, 1.0])
    low, mean, high = (table.loc[("noisy", "rho"), column] for column in ("low", "mean", "high"))
    assert low < mean < high
    assert found.mean("rho")["noisy"] == mean
    lead = found.difference("true", "noisy")
    assert lead["low"] > 0
    assert lead["mean"] == pytest.approx(1 - found.mean("ndcg")["noisy"])
    assert repr(found) == "RankingEvaluation(5 rankers on 12 targets)"
    assert "noisy" in found._repr_html_()


def test_the_interval_is_that_of_a_naive_bootstrap() -> None:
    generator = np.random.default_rng(2)
    true = pd.DataFrame(generator.normal(size=(15, 4)))
    found = evaluate_ranking(pd.DataFrame(generator.normal(size=(15, 4))), true)
    values = found.by_target.query("ranker == 'predicted'")["rho"].to_numpy()
    naive = [generator.choice(values, size=15).mean() for _ in range(20_000)]
    table = found.table().set_index(["ranker", "measure"]).loc[("predicted", "rho")]
    assert table[["low", "high"]].tolist() == pytest.approx(np.quantile(naive, [0.025, 0.975]).tolist(), abs=0.06)


def test_mistakes_name_what_lacks() -> None:
    with pytest.raises(SettingError, match="the ranking 'predicted' has no source 'c'; add it, with NaN"):
        evaluate_ranking(frame([1.0, 2.0]), frame([1.0, 2.0, 3.0]))
    with pytest.raises(SettingError, match="target 'x' has no source with a measured transfer; leave it out"):
        evaluate_ranking(frame([1.0]), frame([math.nan]))
    with pytest.raises(SettingError, match="'mine' was not evaluated; choose one of: predicted, random, popularity"):
        evaluate_ranking(frame([1.0, 2.0]), frame([1.0, 2.0])).difference("mine", "random")
    with pytest.raises(SettingError, match="every evaluation has a ranking 'random' of its own; give yours another"):
        evaluate_ranking({"random": frame([1.0, 2.0])}, frame([1.0, 2.0]))
    with pytest.raises(SettingError, match="regret cannot be measured for k=0; give 1 or more"):
        evaluate_ranking(frame([1.0, 2.0]), frame([1.0, 2.0]), ks=(0,))
    with pytest.raises(SettingError, match="families has no 'b'; add it, with \"\" for what has no family"):
        evaluate_ranking(frame([1.0, 2.0]), frame([1.0, 2.0]), families={"x": "f", "a": "f"})
    with pytest.raises(SettingError, match="no target has a source of its own family; rank across all"):
        evaluate_ranking(frame([1.0]), frame([1.0]), families={"x": "f", "a": "g"})
