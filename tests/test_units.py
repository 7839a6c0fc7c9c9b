"""Keys of units: equal contents, equal key, whatever else differs."""

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel

from headstart.units import Content, Result, Unit, canonical
from headstart.units.canonical import digest_of
from toy_units import Square, Total

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=20,
)


class Settings(BaseModel):
    uncounted: ClassVar[frozenset[str]] = frozenset({"name"})
    name: str = "usual"
    rank: int
    lr: float = 1e-3
    targets: tuple[str, ...] = ()


class LaterSettings(BaseModel):
    uncounted: ClassVar[frozenset[str]] = frozenset({"name"})
    name: str = "usual"
    rank: int
    lr: float = 1e-3
    targets: tuple[str, ...] = ()
    warmup: float = 0.1


LaterSettings.__name__ = "Settings"


@dataclass(frozen=True, eq=False)
class Uses(Unit):
    type: ClassVar[str] = "uses"
    settings: Any
    more: Any = None

    def compute(self, context: Any) -> Result:
        return Result()


def test_a_hand_made_key() -> None:
    # {"number": 3} is all that counts of Square(3): power has its default, name is a label.
    assert Square(3, name="three").inputs == {"number": 3}
    text = '["square",1,{"number":3}]'
    import hashlib

    assert Square(3).key == hashlib.sha256(text.encode()).hexdigest()


def test_names_and_defaults_do_not_count() -> None:
    key = Uses(Settings(rank=4)).key
    assert Uses(Settings(rank=4, name="mine", lr=0.001)).key == key
    assert Uses(Settings(rank=4), more=None).key == key
    assert Uses(LaterSettings(rank=4)).key == key  # a setting that came later, left at its default
    assert len({key, Uses(Settings(rank=8)).key, Uses(LaterSettings(rank=4, warmup=0)).key}) == 3


def test_the_version_of_a_plug_in_counts_once_it_is_raised() -> None:
    @dataclasses.dataclass(frozen=True, eq=False)
    class Measured(Square):
        raised: ClassVar[int] = 1

        @property
        def versions(self) -> dict[str, int]:
            return {"metric f1": self.raised, "metric acc": 1}

    plain = Square(3).key
    assert Measured(3).key == plain, "keys of before versions stay"
    assert Measured(3).inputs == {"number": 3}
    Measured.raised = 2
    assert Measured(3).key != plain
    assert Measured(3).inputs == {"number": 3, "versions": {"metric f1": 2}}


def test_the_version_and_the_type_count() -> None:
    class Newer(Square):
        version: ClassVar[int] = 2

    class Other(Square):
        type: ClassVar[str] = "other"

    assert len({Square(3).key, Newer(3).key, Other(3).key}) == 3


def test_upstream_units_count_with_their_keys() -> None:
    three, four = Square(3), Square(4)
    assert Total((three, four)).key == Total((Square(3, name="x"), Square(4))).key
    assert Total((three, four)).key != Total((three, Square(5))).key
    assert [unit.number for unit in Total((three, four, Square(3))).needs()] == [3, 4]


def test_units_in_records_and_mappings_are_needed() -> None:
    @dataclass(frozen=True)
    class Start:
        unit: Square

    assert [unit.key for unit in Uses({"a": [Start(Square(2))]}).needs()] == [Square(2).key]


@given(VALUES, VALUES)
def test_equal_forms_mean_equal_values(one: Any, other: Any) -> None:
    same = digest_of(canonical(one)) == digest_of(canonical(other))
    assert same == (repr(plain(one)) == repr(plain(other)))


def plain(value: Any) -> Any:
    """`value` with what does not count taken out: the order of keys, and whether a whole number is a float."""
    match value:
        case float() if value.is_integer() and abs(value) <= 2**53:
            return int(value)
        case dict():
            return {key: plain(value[key]) for key in sorted(value)}
        case list():
            return [plain(item) for item in value]
    return value


@given(st.dictionaries(st.text(), st.integers()), st.randoms())
def test_order_of_mappings_and_sets_does_not_count(value: dict[str, int], random: Any) -> None:
    items = list(value.items())
    random.shuffle(items)
    assert canonical(dict(items)) == canonical(value)
    assert canonical(set(value)) == canonical(frozenset(items_ for items_, _ in items))


@given(st.sampled_from([1, 1.0, True, "1", b"1", [1], {"1": 1}, None]), st.sampled_from([0, False, "", b"", [], {}]))
def test_unlike_values_have_unlike_forms(one: Any, other: Any) -> None:
    assert digest_of(canonical(one)) != digest_of(canonical(other))


def test_what_has_no_contents_is_refused() -> None:
    with pytest.raises(TypeError, match=r"a PosixPath cannot be an input of a unit; give its contents or its digest"):
        _ = Uses(Path("x")).key
    with pytest.raises(TypeError, match="must be a string"):
        _ = Uses({1: 2}).key


def test_content_is_hashed_once() -> None:
    rows = [("a", 1.0)] * 3
    content = Content.of(rows)
    assert content.value is rows
    assert Uses(content).key == Uses(Content.of([("a", 1)] * 3)).key != Uses(Content.of(rows[:2])).key


def test_keys_are_computed_once() -> None:
    unit = Square(3)
    assert unit.key is unit.key
    assert dataclasses.replace(unit, number=4).key == Square(4).key
