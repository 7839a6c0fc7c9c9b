"""Every rule and every merge space keeps the contract, and the two suites can fail."""

import math
from collections.abc import Sequence

import pytest

from headstart.blending import RULES, SPACES, Request, Rule, Space, Weighed, Weights
from headstart.blending.spaces.contract import Options
from headstart.blending.spaces.parameters import Parameters
from headstart.kinds import Module
from headstart.testing import check_rule, check_space


@pytest.mark.parametrize("name", RULES)
def test_every_rule_keeps_the_contract(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if name == "nevergrad":
        pytest.importorskip("nevergrad")
        monkeypatch.setattr("headstart.blending.rules.nevergrad.BUDGET", 6)
    assert [outcome for outcome in check_rule(name) if outcome.result != "passed"] == []


@pytest.mark.parametrize("name", SPACES)
def test_every_space_keeps_the_contract(name: str) -> None:
    found = check_space(name)
    assert [outcome for outcome in found if outcome.result == "failed"] == []
    assert {o.backbone for o in found if o.result == "passed"} == (
        {"lora"} if "lora" in SPACES[name].needs else {"lora", "ia3", "bitfit"}
    )


class Bad(Rule):
    """Wrong in every way that the suite looks for."""

    name, source, needs, reads = "worse", "", frozenset({"luck"}), frozenset({"colour"})
    calls = 0

    def check(self, blend: object, *, family: str = "") -> None:
        """Nothing is refused."""

    def weigh(self, request: Request) -> Weighed:
        """Not the same twice, not a sum of 1, and something for those that cannot be merged."""
        del request
        self.calls += 1
        return Weighed(Weights(modules=(self.calls, 1.0, 1.0, 0.0, 0.0)))


class Worse(Space):
    """Takes the sum of the first two given, twice as large."""

    name, source, linear = "other", "", True
    needs = frozenset({"luck"})

    def merge(self, modules: Sequence[Module], weights: Weights, options: Options) -> Module:
        """Order decides, and a single module is not itself."""
        if weights.signed:
            raise ValueError("no signs")
        whole = Parameters().merge(modules[:1] * 2, Weights(modules=(1.0, 1.0)), options)
        return whole.with_parameters({k: v + math.pi * len(modules) for k, v in whole.parameters().items()})


def test_the_suites_can_fail(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(RULES._loaded, "bad", Bad())
    monkeypatch.setattr(RULES, "_added", ["bad"])
    assert {outcome.check: outcome.result for outcome in check_rule("bad")} == dict.fromkeys(
        ("what it says of itself", "options that it ignores", "sound weights", "the same again", "no modules"), "failed"
    )
    monkeypatch.setitem(SPACES._loaded, "bad", Worse())
    monkeypatch.setattr(SPACES, "_added", ["bad"])
    failed = {outcome.check for outcome in check_space("bad", kinds=("ia3",)) if outcome.result == "failed"}
    assert failed >= {"what it says of itself", "another order", "signs"}
