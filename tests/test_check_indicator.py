"""Every registered indicator passes the conformance suite, and mistakes are found."""

from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from headstart.errors import SettingError
from headstart.indicators import INDICATORS, Need, TokenIndicator, TokenStatistics
from headstart.testing import INDICATOR_CHECKS, check_indicator

PARTS = ("grand:block=1", "weight_cosine:sublayer=attention", "hidden_cosine:block=0", "euclidean:block=1,m=3")


@pytest.mark.parametrize("spec", [*INDICATORS, *PARTS])
def test_every_indicator_passes(spec: str) -> None:
    outcomes = check_indicator(spec)
    assert [outcome for outcome in outcomes if outcome.result != "passed"] == []
    assert len(outcomes) == 2 * len(INDICATOR_CHECKS)


@dataclass(frozen=True)
class Good(TokenIndicator):
    """log p of the gold token."""

    name = "good"
    source = "for illustration"

    def per_token(self, tokens: TokenStatistics) -> Tensor:
        return tokens.gold_log_p.detach()


class Constant(Good):
    """Always the same."""

    def per_token(self, tokens: TokenStatistics) -> Tensor:
        return torch.full(tokens.logits.shape[:2], 0.5)


class Crowd(Good):
    """Compares a module with those that happen to be computed with it."""

    def per_token(self, tokens: TokenStatistics) -> Tensor:
        return tokens.gold_log_p.detach() - tokens.gold_log_p.detach().mean(0)


class Batch(Good):
    """Compares a token with those that happen to be in its batch."""

    def per_token(self, tokens: TokenStatistics) -> Tensor:
        return tokens.gold_log_p.detach() - tokens.gold_log_p.detach().mean(1, keepdim=True)


class Silent(Good):
    """Has no needs and no source."""

    source = ""
    needs = frozenset()


class Tuning(Good):
    """Needs tuning without saying how much."""

    needs = frozenset({Need.PREDICTIONS, Need.TUNING})


@pytest.fixture
def registered(monkeypatch: pytest.MonkeyPatch) -> None:
    made = {"good": Good, "constant": Constant, "crowd": Crowd, "batch": Batch, "silent": Silent, "tuning": Tuning}
    for name, family in made.items():
        family.name = name
    monkeypatch.setattr(INDICATORS, "_loaded", {**INDICATORS._loaded, **made})
    monkeypatch.setattr(INDICATORS, "_added", [*INDICATORS._added, *made])


@pytest.mark.parametrize(
    ("name", "failing"),
    [
        ("good", set()),
        ("constant", {"tells modules apart"}),
        ("crowd", {"company", "batches", "equal modules", "tells modules apart"}),
        ("batch", {"batches", "rows stand alone"}),
        ("silent", {"declares what it is"}),
        ("tuning", {"declares what it is"}),
    ],
)
@pytest.mark.usefixtures("registered")
def test_mistakes_are_found(name: str, failing: set[str]) -> None:
    found = {outcome.check for outcome in check_indicator(name, backbones=["llama"]) if outcome.result == "failed"}
    assert found <= failing
    assert bool(found) == bool(failing)


def test_an_unknown_indicator_is_refused() -> None:
    with pytest.raises(SettingError, match="unknown indicator 'nothing'"):
        check_indicator("nothing")
