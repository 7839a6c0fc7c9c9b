"""Recipes: the papers' own numbers, and changes to them."""

import importlib.util
import math
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

from headstart.errors import SettingError
from headstart.kinds import KINDS
from headstart.tuning.recipes import RECIPES, SHAPES, Recipe


def test_the_papers_own_recipes() -> None:
    few, full, tupate = (RECIPES[name] for name in ("few-shot", "full", "tupate"))
    assert (few.lr, few.batch_size, few.patience, few.eval_every) == (5e-4, 8, 10, 100)
    assert (full.lr, full.batch_size, full.patience, full.eval_every) == (5e-4, 16, 20, 1000)
    for recipe in (few, full):
        assert (recipe.optimizer, recipe.schedule, recipe.warmup_steps) == ("adafactor", "constant_with_warmup", 200)
        assert (recipe.clip, recipe.rank, recipe.alpha, recipe.max_input, recipe.max_target) == (0.1, 10, 16.0, 512, 64)
    assert (tupate.rank, tupate.alpha, tupate.batch_size) == (8, 8.0, 32)
    assert list(RECIPES) == ["few-shot", "full", "tupate", "quick"]
    assert all(RECIPES[name].name == name for name in RECIPES)


def test_a_changed_recipe_is_a_new_one() -> None:
    changed = RECIPES["quick"].change(lr=0.5, targets=("q",))
    assert (changed.lr, changed.targets, changed.rank) == (0.5, ("q",), RECIPES["quick"].rank)
    assert RECIPES["quick"].lr == 1e-3
    assert Recipe.from_json(changed.to_json(), source="memory") == changed


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"learning_rate": 1}, "a recipe has no setting 'learning_rate'; it has: name, lr, batch_size"),
        ({"lr": 0}, r"recipe setting lr=0\.0 must be above 0; correct it"),
        ({"lr": math.nan}, "recipe setting lr=nan must be above 0"),
        ({"max_steps": -1}, "recipe setting max_steps=-1 must be above 0"),
        ({"lr": "fast"}, r"recipe setting lr='fast': Input should be a valid number.*; correct it"),
        ({"batch_size": 1.5}, r"recipe setting batch_size=1\.5: Input should be a valid integer"),
        ({"select": "luck"}, "unknown select 'luck'; choose one of: score, loss"),
    ],
)
def test_a_change_that_makes_no_sense(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(SettingError, match=message):
        RECIPES["quick"].change(**settings)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"max_input": 0}, "recipe setting max_input=0 must be above 0"),
        ({"max_target": -1}, "recipe setting max_target=-1 must be above 0"),
        ({"max_dev": 0}, "recipe setting max_dev=0 must be above 0"),
        ({"warmup_steps": -3}, "recipe setting warmup_steps=-3 must be at least 0"),
        ({"targets": " , "}, "recipe setting targets=' , ': Value error, it names no layer; correct it"),
        ({"encoder": True}, "recipe setting encoder is not for kind 'lora', which reads: alpha, rank, targets; leave"),
        ({"kind": "bitfit", "rank": 4}, "recipe setting rank is not for kind 'bitfit', which reads: targets; leave it"),
    ],
)
def test_what_would_be_ignored_or_crash_is_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(SettingError, match=message):
        RECIPES["quick"].change(**settings)


def test_what_a_kind_reads_is_what_its_settings_hold() -> None:
    found = {kind: {field.name for field in fields(KINDS[kind].settings)} for kind in SHAPES}
    assert list(SHAPES) != []
    assert {kind: own & Recipe.model_fields.keys() for kind, own in found.items()} == SHAPES
    assert RECIPES["quick"].change(kind="prefix", encoder=True).encoder
    assert RECIPES["quick"].change(**RECIPES["few-shot"].model_dump()) == RECIPES["few-shot"]
    assert RECIPES["quick"].change(kind="adapter", length=None).kind == "adapter"
    assert RECIPES["quick"].change(kind="a-plugin-s", rank=4).rank == 4, "what a plugin reads is its own affair"


def test_targets_may_be_one_text() -> None:
    assert RECIPES["quick"].change(targets="query, value").targets == ("query", "value")


def test_the_page_of_recipes_is_current() -> None:
    path = Path(__file__).parents[1] / "docs" / "write_recipes.py"
    spec = importlib.util.spec_from_file_location("write_recipes", path)
    assert spec is not None
    assert spec.loader is not None
    writer = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(writer)
    assert writer.page() == writer.PAGE.read_text(encoding="utf-8"), "run `python docs/write_recipes.py`"
