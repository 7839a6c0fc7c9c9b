import math
from itertools import pairwise

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from headstart.blending import effective_number, one_hot, softmax, uniform
from headstart.blending.weights import LayerWeights, Weights, check_softmax, temperature_for, usual_effective
from headstart.errors import MergeError, SettingError

FINITE = st.floats(-50, 50)


def test_softmax_is_as_worked_by_hand() -> None:
    # τ = ½: exp(2·(S − 3)) of 1, 2, 3 = e⁻⁴, e⁻², 1; sum 1.153651…
    found = softmax([1.0, 2.0, 3.0], temperature=0.5)
    total = math.exp(-4) + math.exp(-2) + 1
    assert found == pytest.approx([math.exp(-4) / total, math.exp(-2) / total, 1 / total], rel=1e-15)


def test_a_vanishing_temperature_takes_the_best_and_an_infinite_one_takes_all() -> None:
    assert softmax([0.1, 0.3, 0.2], temperature=1e-300) == (0.0, 1.0, 0.0)
    assert softmax([0.1, 0.3, 0.2], temperature=math.inf) == pytest.approx(uniform(3))


def test_ties_share_and_the_earlier_stays_at_the_edge_of_the_top_k() -> None:
    assert softmax([1.0, 1.0, 0.0], temperature=1e-9) == (0.5, 0.5, 0.0)
    assert softmax([2.0, 1.0, 1.0], temperature=math.inf, top_k=2) == (0.5, 0.5, 0.0)
    assert softmax([1.0, 1.0], temperature=1.0, top_k=1) == (1.0, 0.0)
    assert softmax([1.0, 2.0], temperature=1.0, top_k=9) == softmax([1.0, 2.0], temperature=1.0)


def test_a_missing_score_gets_no_weight() -> None:
    assert softmax([math.nan, 1.0, math.inf, 1.0], temperature=0.1) == (0.0, 0.5, 0.0, 0.5)
    assert softmax([math.nan, 1.0], temperature=0.1, top_k=2) == (0.0, 1.0)
    with pytest.raises(MergeError, match=r"no module has a score to weigh by; use another indicator"):
        softmax([math.nan, math.nan], temperature=0.1)
    with pytest.raises(MergeError, match="no module has a score"):
        softmax([], temperature=0.1)


@pytest.mark.parametrize("temperature", [0.0, -1.0, math.nan])
def test_a_temperature_must_be_positive(temperature: float) -> None:
    with pytest.raises(SettingError, match=r"temperature .* must be above 0; for the best module alone use rule"):
        softmax([1.0], temperature=temperature)


def test_a_top_k_must_be_positive() -> None:
    with pytest.raises(SettingError, match=r"top_k 0 must be at least 1; leave it out"):
        check_softmax(1.0, 0)


def test_uniform_one_hot_and_the_effective_number() -> None:
    assert uniform(4) == (0.25,) * 4
    assert one_hot(1, 3) == (0.0, 1.0, 0.0)
    assert effective_number(uniform(4)) == pytest.approx(4)
    assert effective_number(one_hot(0, 7)) == 1
    assert effective_number([0.5, 0.25, 0.25]) == pytest.approx(1 / 0.375)
    with pytest.raises(MergeError, match="no module to merge; add modules"):
        uniform(0)


@given(scores=st.lists(FINITE, min_size=1, max_size=12), temperature=st.floats(0.01, 100), data=st.data())
def test_softmax_properties(scores: list[float], temperature: float, data: st.DataObject) -> None:
    top_k = data.draw(st.none() | st.integers(1, 14))
    weights = softmax(scores, temperature=temperature, top_k=top_k)
    assert math.fsum(weights) == pytest.approx(1, abs=1e-12)
    assert all(weight >= 0 for weight in weights)
    assert sum(weight > 0 for weight in weights) <= (top_k or len(scores))
    assert 1 - 1e-9 <= effective_number(weights) <= len(scores) + 1e-9
    shifted = softmax([score + 8.0 for score in scores], temperature=temperature, top_k=top_k)
    assume(len({score + 8.0 for score in scores}) == len(set(scores)))  # a shift may round two scores into one
    assert shifted == pytest.approx(weights, abs=1e-9)
    for (one, left), (other, right) in zip(
        zip(scores, weights, strict=True), list(zip(scores, weights, strict=True))[1:], strict=False
    ):
        assert one <= other or left >= right


@given(
    scores=st.lists(FINITE, min_size=1, max_size=8, unique=True),
    top_k=st.none() | st.integers(1, 8),
    data=st.data(),
)
def test_softmax_follows_a_permutation(scores: list[float], top_k: int | None, data: st.DataObject) -> None:
    order = data.draw(st.permutations(range(len(scores))))
    weights = softmax(scores, temperature=2.0, top_k=top_k)
    permuted = softmax([scores[index] for index in order], temperature=2.0, top_k=top_k)
    assert permuted == pytest.approx([weights[index] for index in order], abs=1e-12)


# ---- a temperature for a wanted effective number


def test_the_temperature_for_an_effective_number_is_as_worked_by_hand() -> None:
    # Of two scores 1 apart x = exp(-1/τ) is the ratio of their weights: 1/Σw² = (1 + x)²/(1 + x²), which is 8/5 for
    # x = 1/3, since (4/3)² / (10/9) = 16/10. So τ = 1/ln 3.
    assert temperature_for(1.6, [0.0, 1.0]) == pytest.approx(1 / math.log(3), rel=1e-9)
    assert temperature_for(1.6, [1.0, math.nan, 0.0, -9.0], top_k=2) == pytest.approx(1 / math.log(3), rel=1e-9)


@given(
    scores=st.lists(FINITE, min_size=2, max_size=12, unique=True),
    share=st.floats(0.02, 0.98),
    shift=st.floats(-5, 5),
    scale=st.floats(0.01, 100),
)
def test_the_temperature_gives_the_effective_number_and_scales_with_the_scores(
    scores: list[float], share: float, shift: float, scale: float
) -> None:
    ordered = sorted(scores)
    assume(min(b - a for a, b in pairwise(ordered)) > 1e-3)
    wanted = 1 + share * (len(scores) - 1)
    found = temperature_for(wanted, scores)
    assert effective_number(softmax(scores, temperature=found)) == pytest.approx(wanted, rel=1e-6)
    assert temperature_for(wanted, [scale * score + shift for score in scores]) == pytest.approx(
        scale * found, rel=1e-4
    )


def test_an_effective_number_beyond_its_range_is_its_end() -> None:
    assert temperature_for(3, [0.1, 0.2, math.nan, 0.3]) == math.inf
    assert temperature_for(2, [0.5, 0.5, 0.5]) == math.inf, "equal scores have equal weights"
    # Two share the best score, so no temperature brings the number below 2.
    assert effective_number(softmax([1, 1, 0], temperature=temperature_for(1.5, [1, 1, 0]))) == pytest.approx(2)
    with pytest.raises(MergeError, match="no module has a score to weigh by"):
        temperature_for(2, [math.nan])
    with pytest.raises(SettingError, match=r"effective 0\.9 must be at least 1 module"):
        temperature_for(0.9, [1, 2])


@pytest.mark.parametrize(("count", "expected"), [(1, 1), (2, 2**0.5), (9, 3), (16, 4), (5000, 4)])
def test_the_usual_effective_number_lies_between_the_best_and_the_average(count: int, expected: float) -> None:
    assert usual_effective(count) == pytest.approx(expected)


# ---- weights of groups of layers


def test_the_longest_path_that_holds_a_layer_counts() -> None:
    weights = Weights(
        modules=(0.5, 0.5),
        groups=(
            LayerWeights(layers=("model.layers.1", "model.layers.2.mlp"), modules=(1.0, 0.0)),
            LayerWeights(layers=("model.layers.2",), modules=(0.25, 0.75)),
        ),
    )
    assert weights.of("model.layers.1.q_proj") == weights.of("model.layers.2.mlp.up_proj.a") == (1.0, 0.0)
    assert weights.of("model.layers.2.q_proj") == (0.25, 0.75)
    assert weights.of("model.layers.10.q_proj") == weights.of("lm_head") == (0.5, 0.5), "10 does not begin with 1."
    assert weights.only((1,)).of("model.layers.2.q_proj") == (0.75,)
    assert weights.taking_part() == (0, 1)


def test_the_tail_is_the_smallest_that_have_at_most_a_ten_thousandth_together() -> None:
    weights = Weights(modules=(4e-5, 0.6, 5e-5, 0.0, 0.39985, 6e-5))
    assert weights.taking_part() == (0, 1, 2, 4, 5)
    assert weights.above_tail() == (1, 4, 5), "4e-5 + 5e-5 + 6e-5 would be too much"
    assert weights.only((1, 4, 5)).rescaled().modules == pytest.approx(
        [w / 0.99991 for w in (0.6, 0.39985, 6e-5)], rel=1e-12
    )
    alike = Weights(modules=(1 / 30_000,) * 30_000)
    assert len(alike.above_tail()) == 30_000
    grouped = Weights(modules=(1 - 1e-5, 1e-5), groups=(LayerWeights(layers=("a",), modules=(0.5, 0.5)),))
    assert grouped.above_tail() == (0, 1)


@pytest.mark.parametrize("shares", [(0.5,), (0.5, 0.6), (1.5, -0.5), (math.nan, 1.0)])
def test_the_weights_of_every_group_are_checked(shares: tuple[float, ...]) -> None:
    bad = Weights(modules=(0.5, 0.5), groups=(LayerWeights(layers=("a",), modules=shares),))
    with pytest.raises(MergeError, match="the weights must be 2 numbers of at least 0 that sum to 1; normalize them"):
        bad.check(2)
