"""The backbone that modules say they are for, where a user names none."""

import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from headstart.backbones import Backbone
from headstart.backbones.stated import stated_backbone, stated_in
from headstart.blending.ensemble import ensemble
from headstart.comparing.compare import compare
from headstart.errors import SettingError, TaskError
from headstart.evaluating.evaluate import evaluate
from headstart.evaluating.predict import predict
from headstart.fitting.guard import guard
from headstart.hub import Hub
from headstart.indicators.engine import score
from headstart.kinds import LazyModule, LoraModule, load_module, own_backbone, save_module
from headstart.kinds.exporting import merged_weights
from headstart.kinds.saving import based_on
from headstart.ranking.rank import rank
from headstart.ranking.search import search
from headstart.records import Template
from headstart.tasks import Task
from headstart.tuning.tune import tune
from program import Run, assert_mistake
from small_hub import RECIPE, module, write_task

pytest_plugins = ["cli_helper", "small_road"]


def test_a_folder_that_is_here_goes_before_an_id_of_the_model_hub(tmp_path: Path) -> None:
    (tmp_path / "llama").mkdir()
    here = str(tmp_path / "llama")
    assert stated_backbone([here, "someone/llama", "llama"], whose="it") == here
    assert stated_backbone([here, f"{tmp_path}/../{tmp_path.name}/llama"], whose="it") == here
    assert stated_backbone(["someone/llama", "llama", ""], whose="it") == "someone/llama"


@pytest.mark.parametrize("odd", ["~nobody-of-this-name/llama", "x" * 5000, "a\0b", "/proc/1/root/llama"])
def test_a_place_that_cannot_be_looked_at_is_none(odd: str) -> None:
    assert stated_backbone([odd, "someone/llama"], whose="it") == "someone/llama"


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ([], "my-hub does not say which backbone it is for; give the frozen model with --backbone"),
        (["smollm2-135m"], "my-hub says that it is for 'smollm2-135m', which is no folder here; give the frozen model"),
        (["/nowhere/at all"], "my-hub says that it is for '/nowhere/at all', which is no folder here"),
        (["a/one", "b/two"], "my-hub names 2 backbones: a/one, b/two; give the frozen model with --backbone"),
    ],
)
def test_no_backbone_is_guessed(names: list[str], message: str) -> None:
    with pytest.raises(SettingError, match=message):
        stated_backbone(names, whose="my-hub")


def test_a_folder_says_it_in_the_configuration_or_on_the_card(tmp_path: Path) -> None:
    assert stated_in(tmp_path) == []
    (tmp_path / "adapter_config.json").write_text('{"base_model_name_or_path": "a/one", "model_name": null}')
    (tmp_path / "headstart.json").write_text('{"base_model": "one"}')
    assert stated_in(tmp_path) == ["a/one", "one"]
    (tmp_path / "adapter_config.json").write_text("[broken")
    assert stated_in(tmp_path) == ["one"], "what is wrong with the file is said by what reads the module"


@pytest.fixture
def mine(llama: Backbone, tiny_llama: Path, tmp_path: Path) -> Path:
    """A module whose configuration says where its backbone is."""
    card = {"template": Template(), "labels": ("negative", "positive"), "options": "labels", "task": "reviews"}
    made = module(llama, "ada", seed=1, **card)
    save_module(based_on(made, str(tiny_llama)), tmp_path / "ada")
    return tmp_path / "ada"


def test_modules_and_hubs_name_their_backbone(
    mine: Path, llama: Backbone, task: Task, tiny_llama: Path, tmp_path: Path
) -> None:
    hub, here = Hub.create(tmp_path / "hub"), str(tiny_llama)
    with pytest.raises(SettingError, match="hub, which is empty, does not say which backbone it is for"):
        own_backbone(hub)
    save_module(based_on(module(llama, "bob", seed=2), here), tmp_path / "bob")
    for folder in (mine, tmp_path / "bob"):
        hub.add(folder)
    forms: list[Any] = [hub, [mine, tmp_path / "bob"], str(mine), hub["ada"], load_module(mine), iter([mine])]
    forms += [[LazyModule(hub["ada"], hub["ada"].card, LoraModule, 0, llama.fingerprint)]]
    assert [own_backbone(form) for form in forms] == [here] * len(forms)
    save_module(based_on(module(llama, "cyd", seed=3), "someone/else"), tmp_path / "cyd")
    with pytest.raises(SettingError, match="the list of modules names 2 backbones: a/one, someone/else; give"):
        own_backbone([based_on(load_module(mine), "a/one"), tmp_path / "cyd"])


def test_ranking_blending_tuning_and_searching_need_no_backbone(
    mine: Path, llama: Backbone, tiny_llama: Path, task: Task
) -> None:
    scored = rank(task, [mine], store=False, indicators="loss")
    given = rank(task, [mine], tiny_llama, store=False, indicators="loss")
    assert scored.scores.values == given.scores.values
    assert score([mine], task.dev, indicators="loss").values == given.scores.values
    assert ensemble(task, iter([mine]), blend="uniform", store=False).module.name == "reviews-start"
    assert tune(task, start=mine, recipe=RECIPE, store=False).module.card.base_model == llama.name
    assert merged_weights(mine).tensors.keys() == merged_weights(mine, llama).tensors.keys()
    found = guard(task, [mine], starts="average", folds=2, recipe=RECIPE, store=False)
    assert found.folds == 2
    compared = compare(task, [mine], methods=("scratch", "average"), seeds=1, shots=2, recipe=RECIPE, store=False)
    assert compared.methods == ("scratch", "average")
    with pytest.raises(SettingError, match="without a module, nothing says which backbone is meant; give backbone="):
        tune(task, recipe=RECIPE, store=False)


def test_rows_in_memory_are_evaluated_as_the_module_was_tuned(llama: Backbone, tmp_path: Path) -> None:
    template = Template(input="{text}", target="{mood}")
    card = {"template": template, "labels": ("negative", "positive"), "options": "labels", "metric": "ACC"}
    made = module(llama, "ada", seed=1, task="own", **card)
    save_module(made, tmp_path / "ada")
    rows = [{"text": f"the film is {word}", "mood": mood} for word, mood in
            (("warm", "positive"), ("dull", "negative"), ("good", "positive"))] * 4  # fmt: skip
    frame = pd.DataFrame(rows)
    found = evaluate(tmp_path / "ada", frame, llama, store=False)
    assert len(found.predictions) == 12, "rows in memory are new ones: all are scored"
    assert found.predictions == evaluate(tmp_path / "ada", rows, llama, store=False).predictions
    frame.to_csv(tmp_path / "rows.csv", index=False)
    assert evaluate(tmp_path / "ada", tmp_path / "rows.csv", llama, store=False).answer_loss == found.answer_loss
    with pytest.raises(TaskError, match="the table has no column 'mood', which held the answers when 'ada' was tuned"):
        evaluate(tmp_path / "ada", frame[["text"]], llama, store=False)
    with pytest.raises(TaskError, match="give a list of dicts"):
        evaluate(tmp_path / "ada", 3, llama, store=False)


def test_a_module_is_used_on_its_own_backbone(
    mine: Path, run: Run, here: dict[str, list[str]], llama: Backbone, tiny_llama: Path, tmp_path: Path
) -> None:
    assert own_backbone(load_module(mine)) == str(tiny_llama)
    task, rows = Task.load(here["task"][0]), [{"input": "the song is warm"}]
    backbone = Backbone.load(tiny_llama)
    assert predict(mine, rows).equals(predict(mine, rows, backbone))
    assert evaluate(mine, task, store=False).loss == evaluate(mine, task, backbone, store=False).loss
    with pytest.raises(SettingError, match="without a module, nothing says which backbone is meant"):
        predict(None, rows, labels=["a", "b"])
    (tmp_path / "rows.jsonl").write_text(json.dumps(rows[0]))
    named = run("predict", mine, tmp_path / "rows.jsonl", "--backbone", tiny_llama)
    assert run("predict", mine, tmp_path / "rows.jsonl").out == named.out
    assert run("evaluate", mine, *here["task"], "--store", tmp_path / "s", "--json").data["rows"] == 12
    assert_mistake(run("predict", "none", tmp_path / "rows.jsonl"), "name it with --backbone")
    assert_mistake(run("tune", *here["task"], "-o", tmp_path / "tuned"), "name it with --backbone")


def test_a_hub_is_used_on_the_backbone_that_its_modules_name(
    mine: Path, run: Run, here: dict[str, list[str]], llama: Backbone, tmp_path: Path
) -> None:
    save_module(based_on(module(llama, "bob", seed=2), "smollm2-135m"), tmp_path / "bob")
    hub = tmp_path / "hub"
    run("hub", "add", hub, mine, tmp_path / "bob")
    command: list[Any] = ["rank", *here["task"], "--hub", hub, "--store", tmp_path / "store", "--json"]
    assert {line["module"] for line in run(*command).data["modules"]} == {"ada", "bob"}
    assert_mistake(run(*command, "--include", "bob"), "which is no folder here; give the frozen model with --backbone")


def test_a_search_for_a_task_needs_a_backbone_that_the_hub_names_or_the_caller_gives(
    hub: Hub, tiny_llama: Path, tmp_path: Path
) -> None:
    task = write_task(tmp_path / "reviews")
    named = search(task, hub, recipe=RECIPE, store=False)
    assert named.rows() == search(task, hub, tiny_llama, recipe=RECIPE, store=False).rows()
    elsewhere = Hub.create(tmp_path / "elsewhere")
    save_module(based_on(hub["ada"].load(), "gone/away/llama"), tmp_path / "ada")
    elsewhere.add(tmp_path / "ada")
    with pytest.raises(SettingError, match="says that it is for 'gone/away/llama', which is no folder here; give"):
        search(task, elsewhere, store=False)
