"""How indicators are asked for."""

from dataclasses import dataclass
from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headstart.errors import SettingError
from headstart.indicators import INDICATORS, Indicator, Need, Spec, make_indicator
from headstart.indicators.grand import Grand

WORDS = st.from_regex(r"[^\s:,=]+", fullmatch=True)


@given(WORDS, st.dictionaries(WORDS, WORDS))
def test_a_spec_is_its_text(name: str, parameters: dict[str, str]) -> None:
    spec = Spec(name, tuple(sorted(parameters.items())))
    assert Spec.parse(str(spec)) == spec
    assert hash(Spec.parse(str(spec))) == hash(spec)


@pytest.mark.parametrize(
    "text", ["", "grand:", "grand:block", "grand:block=", "grand:=3", "grand:block=3,", "a b", ":x=1"]
)
def test_what_is_no_spec_is_refused(text: str) -> None:
    with pytest.raises(SettingError, match=r"is not a spec; write NAME or NAME:PARAMETER=VALUE,PARAMETER=VALUE$"):
        Spec.parse(text)


@pytest.mark.parametrize("name", list(INDICATORS))
def test_a_name_alone_is_an_indicator_with_its_defaults(name: str) -> None:
    assert str(make_indicator(name).spec) == name
    assert make_indicator(name) == make_indicator(Spec(name)) == make_indicator(make_indicator(name))


def test_the_canonical_spec() -> None:
    # Order, and the way in which a number is written, are not what is asked for.
    asked = [
        make_indicator(text) for text in ("grand:sublayer=feed_forward,block=3", "grand:block=03,sublayer=feed_forward")
    ]
    assert asked == [Grand(block=3, sublayer="feed_forward")] * 2
    assert str(asked[0].spec) == "grand:block=3,sublayer=feed_forward"
    assert make_indicator(asked[0].spec) == asked[0]


@dataclass(frozen=True)
class Nearest(Indicator):
    """An indicator of somebody else's."""

    name = "nearest"
    needs = frozenset({Need.HIDDEN_STATES})
    k: int = 5
    share: float = 0.5
    exact: bool = False
    pooling: Literal["mean", "last"] = "mean"


def test_a_plugins_parameters_are_its_fields(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(INDICATORS._loaded, "nearest", Nearest)
    made = make_indicator("nearest:k=7,share=1e-3,exact=true,pooling=last")
    assert made == Nearest(7, 0.001, True, "last")
    assert str(made.spec) == "nearest:exact=True,k=7,pooling=last,share=0.001"
    assert make_indicator(made.spec) == made
    assert make_indicator("nearest:k=5,pooling=mean").spec == Spec("nearest")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("vibes:block=3", "unknown indicator 'vibes'; choose one of: loss, cosine"),
        ("grand:layer=3", "'grand' has no parameter 'layer'; it has stack, block, sublayer"),
        ("cosine:block=3", "'cosine' has no parameter 'block'; write 'cosine' alone: it has none"),
        ("grand:block=two", "'grand:block=two': block cannot be 'two'; input should be a valid integer"),
        ("grand:sublayer=mlp", "sublayer cannot be 'mlp'; choose one of: attention, cross_attention, feed_forward"),
        ("grand:block=1,block=2", "'grand:block=1,block=2' gives block twice; give it once"),
    ],
)
def test_what_cannot_be_asked_for(text: str, message: str) -> None:
    with pytest.raises(SettingError, match=message):
        make_indicator(text)
