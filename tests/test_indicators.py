"""Every indicator on three-word vocabularies, worked out by hand."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from headstart.architectures import Part
from headstart.indicators import (
    INDICATORS,
    WHOLE,
    GradientIndicator,
    Spec,
    TokenIndicator,
    TokenStatistics,
    WeightIndicator,
    make_indicator,
)
from headstart.indicators.engine import FAMILIES
from headstart.kinds import LoraModule
from headstart.kinds.lora import Factors

HALF = torch.tensor([1 / 2, 1 / 4, 1 / 4]).log()
THIRDS = torch.full((3,), 1 / 3).log()


def per_token(name: str, logits: torch.Tensor, gold: list[int], reference: torch.Tensor | None = None) -> list[float]:
    indicator = make_indicator(name)
    assert isinstance(indicator, TokenIndicator)
    (values,) = indicator.per_token(TokenStatistics(logits.view(1, -1, 3), torch.tensor(gold), reference)).tolist()
    return list(values)


# p = (1/2, 1/4, 1/4), so ‖p‖² = 1/4 + 1/16 + 1/16 = 3/8. Gold word 0 (p_g = 1/2) and gold word 1 (p_g = 1/4).
TWO_TOKENS = torch.stack([HALF, HALF])


def test_loss_by_hand() -> None:
    # log p_g = log 1/2 and log 1/4
    assert per_token("loss", TWO_TOKENS, [0, 1]) == pytest.approx([-math.log(2), -math.log(4)])


def test_cosine_by_hand() -> None:
    # p_g / ‖p‖ = (1/2) / √(3/8) = √(2/3) and (1/4) / √(3/8) = √(1/6)
    assert per_token("cosine", TWO_TOKENS, [0, 1]) == pytest.approx([math.sqrt(2 / 3), math.sqrt(1 / 6)])


def test_el2n_by_hand() -> None:
    # p − v = (−1/2, 1/4, 1/4): √(3/8); p − v = (1/2, −3/4, 1/4): √(4/16 + 9/16 + 1/16) = √(7/8)
    assert per_token("el2n", TWO_TOKENS, [0, 1]) == pytest.approx([-math.sqrt(3 / 8), -math.sqrt(7 / 8)])


def test_kl_by_hand() -> None:
    # p̃ = (1/3, 1/3, 1/3): KL(p̃ ‖ p) = 1/3 log(2/3) + 2/3 log(4/3) = 0.05663, not KL(p ‖ p̃) = 0.05889; and 0 to itself.
    expected = math.log(2 / 3) / 3 + 2 * math.log(4 / 3) / 3
    assert expected == pytest.approx(0.05663, abs=1e-5)
    found = per_token("kl", TWO_TOKENS, [0, 0], torch.stack([THIRDS, HALF]))
    assert found == pytest.approx([-expected, 0.0], abs=1e-6)


def test_grand_by_hand() -> None:
    # √(9 + 16) = 5 and √(0 + 1) = 1
    grand = make_indicator("grand")
    assert isinstance(grand, GradientIndicator)
    squared = {"a": torch.tensor([9.0, 0.0]), "b": torch.tensor([16.0, 1.0])}
    parts = {"a": Part("decoder", 0, "attention"), "b": Part(None, None, None)}
    found = {name: value.tolist() for name, value in grand.by_part(squared, parts).items()}
    assert found == {WHOLE: [-5.0, -1.0], "decoder.0.attention": [-3.0, 0.0], "other": [-4.0, -1.0]}


def lora(*layers: tuple[float, float], name: str = "m") -> LoraModule:
    """One layer per pair (A, B), each 1×1."""
    factors = {
        f"layers.{n}.q": Factors(torch.tensor([[a]]), torch.tensor([[b]]), 1.0) for n, (a, b) in enumerate(layers)
    }
    return LoraModule.build(factors, name=name, backbone=None)


def tupate(modules: list[LoraModule], reference: LoraModule) -> list[float | str]:
    indicator = make_indicator("tupate")
    assert isinstance(indicator, WeightIndicator)
    return indicator.from_modules(modules, reference)


def test_tupate_by_hand() -> None:
    # Layers (1, 0) and (3, 0) average to (2, 0); (0, 1) and (2, 3) to (1, 2): cos = 2 / (2·√5) = 1/√5.
    # Of the flattened parameters it would be (0 + 0 + 6 + 0) / (√10·√14).
    reference = lora((1, 0), (3, 0))
    assert tupate([lora((0, 1), (2, 3)), reference], reference) == pytest.approx([1 / math.sqrt(5), 1.0])


def test_tupate_says_why_there_is_no_value() -> None:
    wide = LoraModule.build(
        {"layers.0.q": Factors(torch.ones(1, 2), torch.ones(1, 1), 1.0)}, name="wide", backbone=None
    )
    uneven = LoraModule.build(wide.factors | lora((0, 0), (1, 1)).factors | wide.factors, name="uneven", backbone=None)
    found = tupate([lora((1, 1)), wide, uneven, lora((0, 0))], lora((1, 1)))
    assert found[0] == pytest.approx(1.0)
    assert found[1] == "its embedding has 3 numbers, the reference module's 2"
    # q's A has one column in layer 1 and two in layer 0, and no counterpart; B is the average of both.
    assert found[2] == "its embedding has 4 numbers, the reference module's 2"
    assert found[3] == "its parameters are all zero"


LOGITS = st.lists(st.floats(-20, 20), min_size=3, max_size=3)


@given(LOGITS, LOGITS, st.integers(0, 2), st.floats(-30, 30))
def test_bounds_and_shifts(logits: list[float], reference: list[float], gold: int, shift: float) -> None:
    row, log_p = torch.tensor(logits), torch.tensor(reference).log_softmax(0).view(1, 3)
    bounds = {"loss": (-math.inf, 0), "cosine": (0, 1), "el2n": (-math.sqrt(2), 0), "kl": (-math.inf, 0)}
    for name, (low, high) in bounds.items():
        (value,) = per_token(name, row, [gold], log_p)
        assert low - 1e-4 <= value <= high + 1e-4
        # The softmax does not see a constant that is added to all logits.
        assert per_token(name, row + shift, [gold], log_p) == pytest.approx([value], abs=2e-4)


@given(LOGITS, st.integers(0, 2))
def test_naive_float64_reference(logits: list[float], gold: int) -> None:
    p = torch.tensor(logits).double().softmax(0)
    v = torch.nn.functional.one_hot(torch.tensor(gold), 3).double()
    row = torch.tensor(logits)
    assert per_token("loss", row, [gold]) == pytest.approx([p[gold].log().item()], abs=1e-5)
    assert per_token("cosine", row, [gold]) == pytest.approx([float(p @ v / p.norm() / v.norm())], abs=1e-5)
    # The difference ‖p‖² − 2 p_g + 1 loses digits near 0; its root keeps half of float32's.
    assert per_token("el2n", row, [gold]) == pytest.approx([-float((p - v).norm())], abs=1e-3)


@pytest.mark.parametrize("name", list(INDICATORS))
def test_every_indicator_says_what_it_is(name: str) -> None:
    indicator = INDICATORS[name]
    assert indicator.name == name
    assert ", 20" in indicator.source
    assert issubclass(indicator, FAMILIES)
    assert indicator.needs
    assert make_indicator(name).spec == Spec(name)


def test_perfect_predictions() -> None:
    sure = torch.tensor([100.0, 0.0, 0.0])
    assert per_token("loss", sure, [0]) == [0.0]
    assert per_token("cosine", sure, [0]) == [1.0]
    assert per_token("el2n", sure, [0]) == [0.0]
