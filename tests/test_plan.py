"""Which examples share a forward pass."""

from itertools import product

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from headstart.backbones import Encoded, plan_batches
from headstart.backbones.plan import causal_batch, pad, seq2seq_batch

LENGTHS = st.lists(st.integers(1, 60), max_size=80)


@given(LENGTHS, st.integers(1, 300), st.integers(1, 40), st.data())
def test_every_example_once_within_every_limit(lengths: list[int], budget: int, most: int, data: st.DataObject) -> None:
    size = len(lengths)
    targets = data.draw(st.none() | st.lists(st.integers(1, 50), min_size=size, max_size=size))
    plan = plan_batches(lengths, budget=budget, targets=targets, most_targets=most)
    assert sorted(index for batch in plan for index in batch) == list(range(size))
    for batch in plan:
        area = len(batch) * max(lengths[index] for index in batch)
        if len(batch) > 1:
            assert area <= budget
            assert targets is None or sum(targets[index] for index in batch) <= most


@given(LENGTHS, st.integers(1, 300))
def test_longest_first(lengths: list[int], budget: int) -> None:
    longest = [max(lengths[index] for index in batch) for batch in plan_batches(lengths, budget=budget)]
    assert longest == sorted(longest, reverse=True)


def cost(plan: list[list[int]], lengths: list[int], pass_cost: float) -> float:
    return sum(len(batch) * max(lengths[index] for index in batch) + pass_cost for batch in plan)


@given(
    st.lists(st.integers(1, 30), min_size=1, max_size=7), st.integers(1, 90), st.sampled_from([0.0, 2.5, 10.0, 100.0])
)
def test_no_grouping_is_cheaper(lengths: list[int], budget: int, pass_cost: float) -> None:
    # Every way to cut the examples, longest first, into runs: 2^(n-1) of them.
    order = sorted(range(len(lengths)), key=lambda index: (-lengths[index], index))
    every = []
    for cuts in product([False, True], repeat=len(order) - 1):
        runs = [[order[0]]]
        for index, cut in zip(order[1:], cuts, strict=True):
            if cut:
                runs.append([])
            runs[-1].append(index)
        if all(len(run) == 1 or len(run) * lengths[run[0]] <= budget for run in runs):
            every.append(cost(runs, lengths, pass_cost))
    found = cost(plan_batches(lengths, budget=budget, pass_cost=pass_cost), lengths, pass_cost)
    assert found == pytest.approx(min(every))


def test_by_hand() -> None:
    # 10 + 10 fit into 20 tokens, and 9 + 9; the 2 would waste 7 of 18 places, more than a pass at a cost of 5.
    assert plan_batches([2, 10, 9, 10, 9], budget=20, pass_cost=5) == [[1, 3], [2, 4], [0]]
    # With room for all and a pass that costs 40: 5·10 + 40 = 90 beats 4·10 + 2 + 80 = 122.
    assert plan_batches([2, 10, 9, 10, 9], budget=100, pass_cost=40) == [[1, 3, 2, 4, 0]]
    # With at most 3 rows of logits, 2 + 2 do not go together.
    assert plan_batches([5, 5], budget=100, targets=[2, 2], most_targets=3) == [[0], [1]]
    assert plan_batches([], budget=5) == []


def test_one_example_beyond_every_limit_goes_alone() -> None:
    assert plan_batches([500], budget=5, targets=[90], most_targets=3) == [[0]]


def test_padding_by_hand() -> None:
    assert pad([[1, 2], [3]], 0).tolist() == [[1, 2], [3, 0]]
    assert pad([[1, 2], [3]], 0, left=True).tolist() == [[1, 2], [0, 3]]


def test_a_causal_batch_by_hand() -> None:
    items = [Encoded((1, 2), (3, 9)), Encoded((9, 9), (9, 9)), Encoded((4,), (5, 6, 9))]
    batch = causal_batch(items, [0, 2], pad_id=0)
    # Rows [1 2 3] and [4 5 6]: the first target is predicted at the prompt's last place (1, and 3 + 0).
    assert batch.inputs["input_ids"].tolist() == [[1, 2, 3], [4, 5, 6]]
    assert batch.rows.tolist() == [1, 2, 3, 4, 5]
    assert batch.gold.tolist() == [3, 9, 5, 6, 9]
    assert batch.owner.tolist() == [0, 0, 1, 1, 1]
    assert batch.positions == 6


def test_an_encoder_decoder_batch_by_hand() -> None:
    items = [Encoded((1, 2), (3, 9)), Encoded((4,), (9,))]
    batch = seq2seq_batch(items, [1, 0], pad_id=0, start_id=7)
    assert batch.inputs["input_ids"].tolist() == [[4, 0], [1, 2]]
    assert batch.inputs["attention_mask"].tolist() == [[1, 0], [1, 1]]
    assert batch.inputs["decoder_input_ids"].tolist() == [[7, 0], [7, 3]]
    assert batch.rows.tolist() == [0, 2, 3]
    assert torch.equal(batch.gold, torch.tensor([9, 3, 9]))
    assert batch.positions == 4
