"""Recipes: the papers' own numbers, and changes to them."""

import importlib.util
import math
from dataclasses import dataclass
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Annotated, Any

import pytest
from pydantic import Field

from headstart.errors import SettingError
from headstart.kinds import KINDS, Module
from headstart.kinds.settings import SETTINGS, LoraSettings
from headstart.tuning.recipes import RECIPES, Recipe


def test_the_papers_own_recipes() -> None:
    few, full, tupate = (RECIPES[name] for name in ("few-shot", "full", "tupate"))
    assert (few.lr, few.batch_size, few.patience, few.eval_every) == (5e-4, 8, 10, 100)
    assert (full.lr, full.batch_size, full.patience, full.eval_every) == (5e-4, 16, 20, 1000)
    for recipe in (few, full):
        assert (recipe.optimizer, recipe.schedule, recipe.warmup_steps) == ("adafactor", "constant_with_warmup", 200)
        assert (recipe.clip, recipe.max_input, recipe.max_target) == (0.1, 512, 64)
        assert recipe.settings == LoraSettings(10, 16.0)
    assert (tupate.settings, tupate.batch_size) == (LoraSettings(8, 8.0), 32)
    assert list(RECIPES) == ["few-shot", "full", "tupate", "quick"]
    assert all(RECIPES[name].name == name for name in RECIPES)


def test_a_changed_recipe_is_a_new_one() -> None:
    changed = RECIPES["quick"].change(lr=0.5, targets=("q",))
    assert (changed.lr, changed.settings) == (0.5, LoraSettings(8, 16.0, ("q",)))
    assert RECIPES["quick"].lr == 1e-3
    assert Recipe.from_json(changed.to_json(), source="memory") == changed


def test_the_warm_up_keeps_its_share_of_the_steps() -> None:
    few, quick = RECIPES["few-shot"], RECIPES["quick"]
    assert few.change(max_steps=100).warmup_steps == 6  # 200 of 3000 is one in 15, and 100 / 15 is 6.67
    assert few.change(max_steps="100").warmup_steps == 6
    assert few.change(max_steps=6000).warmup_steps == 400
    assert quick.change(max_steps=11).warmup_steps == 0  # 4 of 48 is one in 12
    assert RECIPES["tupate"].change(max_steps=10).warmup_steps == 0
    assert few.change(max_steps=100, warmup_steps=50).warmup_steps == 50
    assert few.change(lr=0.1).warmup_steps == few.change(warmup_steps=200).warmup_steps == 200
    assert few.change(max_steps=100) == few.change(max_steps=100, warmup_steps=6)
    with pytest.raises(SettingError, match="warmup_steps=101 is more than max_steps=100, so that the learning rate"):
        few.change(max_steps=100, warmup_steps=101)
    with pytest.raises(SettingError, match="recipe setting max_steps='many'"):
        few.change(max_steps="many")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"learning_rate": 1},
            "no setting 'learning_rate'; it has: name, lr, .*, in shape those of kind 'lora': rank, alpha, targets;",
        ),
        ({"lr": 0}, "recipe setting lr=0 must be above 0; correct it"),
        ({"lr": math.nan}, "recipe setting lr=nan: Input should be a finite number"),
        ({"max_steps": -1}, "recipe setting max_steps=-1 must be above 0"),
        ({"lr": "fast"}, r"recipe setting lr='fast': Input should be a valid number.*; correct it"),
        ({"batch_size": 1.5}, r"recipe setting batch_size=1\.5: Input should be a valid integer"),
        ({"lr": math.inf}, "recipe setting lr=inf: Input should be a finite number"),
        ({"select": "luck"}, "unknown select 'luck'; choose one of: score, loss"),
        ({"optimizer": "adam"}, "unknown optimizer 'adam'; choose one of: adamw, adafactor; did you mean 'adamw'"),
        ({"schedule": "zigzag"}, "unknown schedule 'zigzag'; choose one of: linear, cosine"),
        ({"kind": "lara"}, "unknown kind 'lara'; choose one of: lora, .*; did you mean 'lora'"),
        ({"warmup_steps": 49}, r"warmup_steps=49 is more than max_steps=48, .*; lower it \(warmup_steps=0 is none\)"),
        ({"lrr": 1}, "a recipe has no setting 'lrr'; .*; did you mean 'lr'"),
        ({"tragets": "q"}, "a recipe has no setting 'tragets'; .*; did you mean 'targets'"),
        ({"shape.rnk": 2}, "kind 'lora' has no setting 'rnk', which reads: rank, alpha, targets; did you mean 'rank'"),
        ({"rank": 0}, "setting of kind 'lora': rank=0 must be above 0; correct it"),
        ({"alpha": "much"}, "setting of kind 'lora': alpha='much': Input should be a valid number"),
    ],
)
def test_a_change_that_makes_no_sense(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(SettingError, match=message):
        RECIPES["quick"].change(**settings)


def test_a_recipe_that_makes_no_sense_cannot_be_made() -> None:
    with pytest.raises(SettingError, match="recipe setting lr=-1 must be above 0"):
        Recipe(name="mine", lr=-1, batch_size=8, max_steps=10, eval_every=5, patience=1, warmup_steps=0)
    with pytest.raises(SettingError, match=r"a recipe has no setting 'rank'; .* of kind 'lora': rank"):
        Recipe.model_validate({**RECIPES["quick"].model_dump(), "rank": 8})
    with pytest.raises(SettingError, match="recipe setting batch_size is missing"):
        Recipe.from_json('{"name": "mine", "lr": 1}', source="memory")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"max_input": 0}, "recipe setting max_input=0 must be above 0"),
        ({"max_target": -1}, "recipe setting max_target=-1 must be above 0"),
        ({"max_dev": 0}, "recipe setting max_dev=0 must be above 0"),
        ({"warmup_steps": -3}, "recipe setting warmup_steps=-3 must be at least 0"),
        ({"targets": " , "}, "setting of kind 'lora': targets=' , ': it names no layer; correct it"),
        (
            {"encoder": True},
            "encoder is not for kind 'lora', which reads: rank, alpha, targets; leave it out, or .*kind=prefix",
        ),
        ({"rank": True}, "setting rank=true is not a number or a text; correct it"),
        ({"batch_size": True}, "setting batch_size=true is not a number or a text; correct it"),
        ({"lr": False}, "setting lr=false is not a number or a text; correct it"),
        ({"kind": "bitfit", "rank": 4}, "setting rank is not for kind 'bitfit', which reads: targets; leave it out"),
    ],
)
def test_what_would_be_ignored_or_crash_is_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(SettingError, match=message):
        RECIPES["quick"].change(**settings)


def test_true_is_true_where_it_is_asked_for() -> None:
    found = RECIPES["quick"].change(dropout=True, chat_template=True, kind="adapter", biases=False)
    assert (found.dropout, found.chat_template, found.settings.biases) == (True, True, False)
    assert RECIPES["quick"].change(kind="prefix", encoder=True).settings.encoder is True


def test_settings_are_the_kind_s_own() -> None:
    assert {kind: KINDS[kind].settings for kind in SETTINGS} == dict(SETTINGS)
    assert RECIPES["quick"].change(kind="prefix", encoder=True).settings.encoder
    assert RECIPES["quick"].change(**RECIPES["few-shot"].model_dump()) == RECIPES["few-shot"]
    assert RECIPES["quick"].change(kind="adapter", bottleneck=None).settings == SETTINGS["adapter"]()
    assert RECIPES["quick"].change(kind="prompt").shape == {}, "another kind begins with its own shape"
    assert RECIPES["quick"].change(**{"shape.rank": 3}).settings == LoraSettings(3, 16.0)


@dataclass(frozen=True)
class Stripes:
    """Settings of somebody else's kind: one has the name of a recipe's own."""

    count: Annotated[int, Field(gt=0)] = 3
    lr: float = 0.5


class Zebra(Module):
    """Somebody else's kind, as far as a recipe asks."""

    settings = Stripes


def test_a_plugin_s_kind_owns_its_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    point = EntryPoint("zebra", f"{__name__}:Zebra", "headstart.kinds")
    monkeypatch.setitem(vars(KINDS), "_plugins", {"zebra": [point]})
    monkeypatch.setattr(KINDS, "_loaded", dict(KINDS._loaded))
    recipe = RECIPES["quick"].change(**{"kind": "zebra", "count": 5, "shape.lr": 0.25, "lr": 0.125})
    assert (recipe.settings, recipe.lr) == (Stripes(5, 0.25), 0.125)
    with pytest.raises(SettingError, match="setting of kind 'zebra': count=0 must be above 0"):
        recipe.change(count=0)
    with pytest.raises(SettingError, match="setting rank is not for kind 'zebra', which reads: count, lr; leave it"):
        recipe.change(rank=3)
    assert recipe.canonical()["shape"] == {"count": 5, "lr": 0.25}


def test_targets_may_be_one_text() -> None:
    changed = RECIPES["quick"].change(targets="query, value")
    assert changed.settings.targets == changed.shape["targets"] == ("query", "value")


def test_a_recipe_s_canonical_form_holds_what_changes_the_result() -> None:
    quick = RECIPES["quick"]
    assert quick.canonical() == {
        "lr": 1e-3, "batch_size": 8, "max_steps": 48, "eval_every": 8, "patience": 6, "optimizer": "adamw",
        "schedule": "linear", "warmup_steps": 4, "clip": 1.0, "max_input": 256, "max_target": 32, "max_dev": 64,
        "kind": "lora", "shape": {},
    }  # fmt: skip
    same = Recipe.model_validate({**quick.model_dump(), "name": "another", "select": "score", "shape": {}})
    assert same.canonical() == quick.canonical(), "rank 8 and alpha 16 are LoRA's own"
    assert quick.change(rank=4, targets="q,v").canonical()["shape"] == {"rank": 4, "targets": ["q", "v"]}
    assert quick.change(rank=4).canonical(fresh=False) == quick.canonical(fresh=False)
    assert "kind" not in quick.canonical(fresh=False)


def test_the_page_of_recipes_is_current() -> None:
    path = Path(__file__).parents[1] / "docs" / "write_recipes.py"
    spec = importlib.util.spec_from_file_location("write_recipes", path)
    assert spec is not None
    assert spec.loader is not None
    writer = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(writer)
    assert writer.page() == writer.PAGE.read_text(encoding="utf-8"), "run `python docs/write_recipes.py`"
