"""Patterns and lists of names in a PEFT configuration: read as PEFT reads them, and within limits."""

import re
import time
from typing import Any

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from handmade import lora_config, lora_tensors
from headstart.errors import ModuleError
from headstart.formats import lora_layout
from headstart.formats.libraries.peft_layers import PatternTable
from test_lora_format import SHAPES


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("target_modules", "([a-z_.0-9]+)+!"),
        ("target_modules", "(.*)*(.*)*!"),
        ("exclude_modules", "(a|b|[a-z])*!"),
        ("target_modules", ".*.*.*.*.*.*.*.*!"),
        ("rank_pattern", {"(.*.*)*!": 3}),
        ("alpha_pattern", {r"(\w+\.?){1,40}!": 3}),
        ("target_modules", "(" * 9000 + ")" * 9000),
        ("target_modules", "q{99999999999999999999}"),
        ("target_modules", "a{4294967294}"),
        ("exclude_modules", "a{2,101}"),
        ("rank_pattern", {"a{,5000}": 3}),
        ("target_modules", "a" * 10_001),
        ("rank_pattern", {"a{99}" * 200: 3}),
    ],
)
def test_a_pattern_that_may_take_for_ever_is_refused(field: str, value: object) -> None:
    shapes = {name: tensor.shape for name, tensor in lora_tensors().items()}
    with pytest.raises(ModuleError, match=r"the configuration is malformed: the pattern '.+' "):
        lora_layout(lora_config(**{field: value}), shapes)


def many_layers(count: int) -> dict[str, tuple[int, int]]:
    stems = [f"base_model.model.model.layers.{number}.self_attn.q_proj" for number in range(count)]
    return {f"{stem}.lora_{end}.weight": shape for stem in stems for end, shape in (("A", (2, 4)), ("B", (3, 2)))}


@pytest.mark.parametrize(
    "changes",
    [
        {"rank_pattern": {f"layers.{number}.self_attn.q_proj": 2 for number in range(100_000)}},
        {"alpha_pattern": {rf"layers\.{number}\.self_attn\.v_proj": 2 for number in range(1000)}},
        {"target_modules": ["q_proj", *(f"layers.{number}.self_attn.v_proj" for number in range(99_999))]},
        {"target_modules": ["q_proj"], "exclude_modules": [f"v{number}_proj" for number in range(100_000)]},
    ],
    ids=["plain keys", "regular expressions", "target names", "excluded names"],
)
def test_many_names_and_layers_take_no_longer_than_their_sum(changes: dict[str, Any]) -> None:
    start = time.perf_counter()
    layout = lora_layout(lora_config(**changes), many_layers(200))
    assert time.perf_counter() - start < 10
    assert len(layout.targets) == 200


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rank_pattern": dict.fromkeys(map(str, range(100_001)), 2)}, "100,001 keys are more than the 100,000"),
        (
            {"rank_pattern": {f"q_proj|{number}": 2 for number in range(1001)}},
            "1,001 regular expressions are more than",
        ),
        (
            {"rank_pattern": {f"({'x' * 9000}{n})": 2 for n in range(12)}},
            "the regular expressions are longer than 100,000",
        ),
        ({"target_modules": list(map(str, range(100_001)))}, "100,001 names are more than the 100,000 that are read"),
        ({"layers_to_transform": 0, "layers_pattern": ["a"] * 1001}, "1,001 regular expressions are more than"),
    ],
)
def test_more_names_than_can_be_meant_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ModuleError, match=f"the configuration is malformed: .*{message}.*; correct it"):
        lora_layout(lora_config(**changes), SHAPES)


def test_slow_patterns_have_one_time_limit_together(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("headstart.formats.libraries.peft_layers.MOST_SECONDS", 0.0)
    with pytest.raises(ModuleError, match=r"layer '.+' is malformed: the pattern '.+' takes too long to match"):
        lora_layout(lora_config(rank_pattern={"a.*" * 9 + "!": 3}), many_layers(50))


@settings(max_examples=300)
@given(
    keys=st.lists(st.text("ab._\\d", min_size=1, max_size=6), max_size=6),
    layer=st.text("ab.1", min_size=1, max_size=8),
)
def test_the_first_matching_key_is_pefts(keys: list[str], layer: str) -> None:
    from peft.utils.other import get_pattern_key

    try:
        table = PatternTable.of(keys)
    except re.error:
        assume(False)
    expected = get_pattern_key(keys, layer)
    assert (table.key(layer) or layer) == expected


@pytest.mark.parametrize(
    "pattern",
    [
        r".*\.(q|v)_proj", r"^(?!.*visual).*(?:q|k)_proj$", r"model\.layers\.\d+\.self_attn\.(q|k)_proj",
        r"(?:.*?(?:language|layers).*?(?:self_attn|mlp).*?(?:q_proj|k_proj).*?)|(?:\bmodel\.layers\.[\d]{1,}\.(?:mlp))",
    ],
)  # fmt: skip
def test_patterns_that_people_write_are_read(pattern: str) -> None:
    shapes = {name: tensor.shape for name, tensor in lora_tensors().items()}
    assert list(lora_layout(lora_config(target_modules=pattern), shapes).targets)


@pytest.mark.parametrize("field", ["r", "lora_alpha"])
@pytest.mark.parametrize("value", [10**400, -(10**400), 1e39, float("inf"), float("nan")])
def test_numbers_without_end_are_refused(field: str, value: float) -> None:
    shapes = {name: tensor.shape for name, tensor in lora_tensors().items()}
    with pytest.raises(ModuleError, match=f"field '{field}' is .*, not a number"):
        lora_layout(lora_config(**{field: value}), shapes)
