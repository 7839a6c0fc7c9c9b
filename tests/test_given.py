"""A task, hub, backbone or module may be given as a path; anything else is refused by name, with what works."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from headstart.backbones import Backbone, as_backbone
from headstart.blending import Blend, merge
from headstart.blending.ensemble import ensemble
from headstart.comparing.compare import compare
from headstart.errors import BackboneError, HeadstartError, HubError, MergeError, ModuleError, SettingError, TaskError
from headstart.evaluating.evaluate_many import evaluate_many
from headstart.hub import Hub, as_hub
from headstart.indicators import INDICATORS
from headstart.indicators.engine import score
from headstart.kinds import as_module, as_modules, fresh_module, load_module, save_module
from headstart.kinds.exporting import merged_weights, save_merged
from headstart.ranking.rank import fits, rank
from headstart.tasks import Task, as_task
from headstart.tasks.inspecting import inspect_task
from headstart.tuning.tune import tune
from small_hub import RECIPE, write_hub, write_task

SHORT = RECIPE.change(max_steps=2, eval_every=2)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, llama: Backbone) -> Path:
    """A folder with "hub" and "task"."""
    folder = tmp_path_factory.mktemp("given")
    write_hub(folder / "hub", llama)
    write_task(folder / "task")
    return folder


@pytest.fixture(scope="module")
def task(folder: Path) -> Task:
    return Task.load(folder / "task")


@pytest.mark.parametrize("kind", [str, Path])
def test_a_ranking_takes_paths(folder: Path, tiny_llama: Path, task: Task, kind: Callable[[Path], Any]) -> None:
    found = rank(kind(folder / "task"), kind(folder / "hub"), kind(tiny_llama), recipe=SHORT, store=False)
    same = rank(task, Hub.open(folder / "hub"), Backbone.load(tiny_llama), recipe=SHORT, store=False)
    assert found.scores == same.scores


def test_a_list_of_modules_may_hold_folders_and_modules_of_a_hub(folder: Path, llama: Backbone, task: Task) -> None:
    hub = Hub.open(folder / "hub")
    given = [str(hub.folder("ada")), hub.folder("bob"), hub.ref("cyd"), load_module(hub.folder("dan"))]
    found = rank(task, given, llama, indicators="loss", recipe=SHORT, store=False)
    assert found.scores == rank(task, hub, llama, indicators="loss", recipe=SHORT, store=False).scores


def test_an_ensemble_and_a_tuning_take_paths(folder: Path, tiny_llama: Path, llama: Backbone, task: Task) -> None:
    paths = {"recipe": SHORT, "store": False}
    start = ensemble(str(folder / "task"), str(folder / "hub"), str(tiny_llama), blend="uniform", **paths)
    assert start.merged.effective == pytest.approx(4)
    tuned = tune(folder / "task", tiny_llama, start=start, **paths)
    same = tune(task, tiny_llama, start=start.module, **paths)
    assert tuned.module.digest() == same.module.digest()
    begun = tune(task, llama, start=str(folder / "hub" / "ada"), **paths)
    assert (
        begun.module.digest() == tune(task, llama, start=load_module(folder / "hub" / "ada"), **paths).module.digest()
    )


def test_a_comparison_takes_paths(folder: Path, tiny_llama: Path) -> None:
    found = compare(
        str(folder / "task"), str(folder / "hub"), str(tiny_llama), methods=("scratch", "average"), seeds=1, shots=2,
        recipe=SHORT, store=False,
    )  # fmt: skip
    assert set(found.scores["method"]) == {"scratch", "average"}


def test_scoring_takes_paths_a_single_one_or_a_hub(folder: Path, tiny_llama: Path, task: Task) -> None:
    hub = Hub.open(folder / "hub")
    every = score(hub, task.dev, tiny_llama, indicators="loss")
    assert every.names == ("ada", "bob", "cyd", "dan")
    alone = score(str(folder / "hub" / "bob"), task.dev, str(tiny_llama), indicators="loss")
    assert alone.values["loss"] == pytest.approx([every.values["loss"][1]], abs=1e-6)
    assert score([hub.ref("bob")], task.dev, str(tiny_llama), indicators="loss").values == alone.values


def test_a_check_against_a_backbone_takes_a_path(folder: Path, tiny_llama: Path, tiny_gpt2: Path) -> None:
    stored = Hub.open(folder / "hub").read("ada")
    fits(str(tiny_llama))(stored)
    with pytest.raises(ModuleError, match="ada"):
        fits(str(tiny_gpt2))(stored)


def test_what_is_given_as_itself_stays_itself(folder: Path, llama: Backbone, task: Task) -> None:
    hub = Hub.open(folder / "hub")
    module = load_module(hub.ref("ada"))
    assert (as_task(task), as_hub(hub), as_backbone(llama), as_module(module)) == (task, hub, llama, module)
    assert [found.name for found in as_modules(hub)] == ["ada", "bob", "cyd", "dan"]
    assert as_modules(module) == [module]


@pytest.mark.parametrize("call", [rank, ensemble, compare])
def test_a_mistyped_hub_is_found_before_a_backbone_is_loaded(
    call: Callable[..., Any], task: Task, tmp_path: Path
) -> None:
    with pytest.raises(HubError, match="there is no hub at"):
        call(task, tmp_path / "gone", tmp_path / "no-backbone-either")


def test_a_list_with_one_odd_source_takes_the_others_in(folder: Path, tmp_path: Path) -> None:
    hub = Hub.create(tmp_path / "hub")
    taken = hub.add_all([folder / "hub" / "ada", 3])  # type: ignore[list-item]
    assert [one.card is not None for one in taken] == [True, False]
    assert str(taken[1].reason).startswith("source is an int; give the folder of a module")
    assert [one.name for one in hub.add_all(str(folder / "hub" / "bob"))] == ["bob"]


def test_a_result_is_saved_as_its_module_and_folders_are_merged(folder: Path, llama: Backbone, tmp_path: Path) -> None:
    hub = Hub.open(folder / "hub")
    merged = merge([hub["ada"], folder / "hub" / "bob"], [0.5, 0.5])
    assert save_module(merged, tmp_path / "saved").digest() == load_module(tmp_path / "saved").digest()
    merged.module.check(llama)


def test_a_merged_model_is_written_from_paths_and_from_results(folder: Path, tiny_llama: Path, tmp_path: Path) -> None:
    ada = load_module(folder / "hub" / "ada")
    exact = Backbone.load(tiny_llama, device="cpu", dtype="float32")
    made = save_merged(str(folder / "hub" / "ada"), tmp_path / "merged", str(tiny_llama))
    same = merged_weights(merge([ada], [1.0]), exact)
    assert made.tensors.keys() == same.tensors.keys() == merged_weights(ada, exact).tensors.keys()
    for name, value in same.tensors.items():
        torch.testing.assert_close(made.tensors[name], value, atol=0, rtol=0)
    assert made.rounding < 1e-5, "a path is loaded in float32 on every machine"


def test_a_merge_on_a_backbone_takes_its_path(tiny_gpt2: Path, gpt2: Backbone) -> None:
    modules = [fresh_module("bitfit", gpt2, {}, name=name, seed=seed) for seed, name in enumerate(("one", "two"))]
    found, same = (
        merge(modules, [0.5, 0.5], space="ties", backbone=given) for given in (str(tiny_gpt2), Backbone.load(tiny_gpt2))
    )
    assert found.module.digest() == same.module.digest()


def test_an_inspection_takes_a_path_and_then_shows_its_columns(folder: Path, task: Task) -> None:
    found, same = inspect_task(str(folder / "task")), inspect_task(task)
    assert (list(found.columns["column"]), len(same.columns)) == (["input", "output"], 0)
    assert found.to_dict() | {"columns": []} == same.to_dict()


def test_many_are_evaluated_from_paths(folder: Path, tiny_llama: Path, llama: Backbone, task: Task) -> None:
    hub = Hub.open(folder / "hub")
    found = evaluate_many([str(hub.folder("ada")), None, hub["bob"]], task.dev, str(tiny_llama), metric="ACC")
    loaded = [load_module(hub["ada"]), None, load_module(hub["bob"])]
    assert [len(one.predictions) for one in found] == [len(task.dev)] * 3
    assert found == evaluate_many(loaded, task.dev, Backbone.load(tiny_llama), metric="ACC")


IN_MEMORY = "Task.from_rows makes one of rows in memory"
WRONG: list[tuple[Callable[..., Any], type[HeadstartError], str]] = [
    (lambda task, hub, llama: rank([{"input": "a"}], hub, llama), TaskError,
     "task is a list; give a Task, or the path of a file or folder that Task.load reads; " + IN_MEMORY),
    (lambda task, hub, llama: rank(None, hub, llama), TaskError,
     "task is None; give a Task, or the path of a file or folder that Task.load reads; " + IN_MEMORY),
    (lambda task, hub, llama: compare(hub, task, llama), TaskError,
     "task is a Hub; give a Task, or the path of a file or folder that Task.load reads; " + IN_MEMORY),
    (lambda task, hub, llama: rank(task, 7, llama), HubError,
     "hub is an int; give a Hub, the path of its folder, or a list of modules"),
    (lambda task, hub, llama: rank(task, [7], llama), ModuleError,
     "a module in hub is an int; give a module, the folder of one, or a result with one, such as ensemble's"),
    (lambda task, hub, llama: ensemble(task, hub, torch), BackboneError,
     "backbone is a module; give a Backbone, or the folder, .gguf file or hub id that Backbone.load reads"),
    (lambda task, hub, llama: ensemble(task, hub, llama.model), BackboneError,
     "backbone is a LlamaForCausalLM; give it with its tokenizer, as Backbone.of(model, tokenizer)"),
    (lambda task, hub, llama: tune(task, llama, start={}), ModuleError,
     "start is a dict; give a module, the folder of one, or a result with one, such as ensemble's"),
    (lambda task, hub, llama: rank(task, hub, llama, reference=3), ModuleError,
     "reference is an int; give a module, the folder of one, or a result with one, such as ensemble's"),
    (lambda task, hub, llama: rank(task, hub, llama, indicators=3), SettingError,
     f"indicators is an int; give names, such as {', '.join(INDICATORS)}"),
    (lambda task, hub, llama: rank(task, hub, llama, indicators=[None]), SettingError,
     "an indicator is None; give its name, such as 'cosine' or 'grand:block=3'"),
    (lambda task, hub, llama: tune(task, llama, recipe={"lr": 1}), SettingError,
     "recipe is a dict; give a Recipe, or the name of one: few-shot, full, tupate, quick"),
    (lambda task, hub, llama: ensemble(task, hub, llama, blend=0.1), SettingError,
     "blend is a float; give a Blend, or its text, such as 'softmax:indicator=loss,temperature=0.1'"),
    (lambda task, hub, llama: compare(task, hub, llama, methods=[None]), SettingError,
     "a method is None; give its text, such as 'softmax:temperature=0.1'"),
    (lambda task, hub, llama: score([load_module(hub.ref("ada"))], task, llama), TaskError,
     "examples is a Task; give a list of Example, such as the rows of task.dev"),
    (lambda task, hub, llama: score([load_module(hub.ref("ada"))], ["a"], llama), TaskError,
     "one of the examples is a str; give a list of Example, such as the rows of task.dev"),
    (lambda task, hub, llama: Backbone.load(llama.model), BackboneError,
     "source is a LlamaForCausalLM; for a model that is loaded already, call Backbone.of(model, tokenizer)"),
    (lambda task, hub, llama: Backbone.load(None), BackboneError,
     "source is None; give a folder, a .gguf file or a hub id"),
    (lambda task, hub, llama: Hub.open(3), HubError, "path is an int; give the path of the hub's folder"),
    (lambda task, hub, llama: Hub.create(None), HubError, "path is None; give the path of the hub's folder"),
    (lambda task, hub, llama: hub[3], HubError,
     "name is an int; give the name of a module, as `Hub.names` lists them"),
    (lambda task, hub, llama: hub.where(kind=3), SettingError, "kind is an int; give a text"),
    (lambda task, hub, llama: hub.where(include=[3]), SettingError, "include is an int; give a text"),
    (lambda task, hub, llama: hub.add(load_module(hub["ada"])), HubError,
     "source is a LoraModule; give the folder of a module (save_module writes one), or hf://owner/name"),
    (lambda task, hub, llama: merge([3], [1.0]), ModuleError,
     "a module in modules is an int; give a module, the folder of one, or a result with one, such as ensemble's"),
    (lambda task, hub, llama: merge(hub, 3), MergeError,
     "weights is an int; give one number for each module, which together make 1"),
    (lambda task, hub, llama: save_module(None, "nowhere"), ModuleError,
     "module is None; give a module, the folder of one, or a result with one, such as ensemble's"),
    (lambda task, hub, llama: Blend(temperature="warm"), SettingError,
     "temperature='warm' of a blend: Input should be a valid number, unable to parse string as a number; correct it"),
    (lambda task, hub, llama: save_merged(3, "nowhere", llama), ModuleError,
     "module is an int; give a module, the folder of one, or a result with one, such as ensemble's"),
    (lambda task, hub, llama: save_merged(hub["ada"], "nowhere", 3), BackboneError,
     "backbone is an int; give a Backbone, or the folder, .gguf file or hub id that Backbone.load reads"),
    (lambda task, hub, llama: merge([hub["ada"]], [1.0], backbone=3), BackboneError,
     "backbone is an int; give a Backbone, or the folder, .gguf file or hub id that Backbone.load reads"),
    (lambda task, hub, llama: inspect_task([{"input": "a"}]), TaskError,
     "task is a list; give a Task, or the path of a file or folder that Task.load reads; " + IN_MEMORY),
    (lambda task, hub, llama: inspect_task(task, backbone="smollm2-135m"), BackboneError,
     "backbone is a str; give what Backbone.load makes of it"),
    (lambda task, hub, llama: evaluate_many([3], task.dev, llama, metric="ACC"), ModuleError,
     "a module in modules is an int; give a module, the folder of one, or a result with one, such as ensemble's"),
    (lambda task, hub, llama: evaluate_many([None], task.dev, None, metric="ACC"), BackboneError,
     "backbone is None; give a Backbone, or the folder, .gguf file or hub id that Backbone.load reads"),
    (lambda task, hub, llama: load_module(3), ModuleError,
     "source is an int; give the folder of a module, a module of a hub, or a PeftModel"),
]  # fmt: skip


@pytest.mark.parametrize(("call", "kind", "said"), WRONG)
def test_another_type_is_refused_with_what_works(
    call: Callable[..., Any], kind: type[HeadstartError], said: str, folder: Path, llama: Backbone, task: Task
) -> None:
    with pytest.raises(kind) as caught:
        call(task, Hub.open(folder / "hub"), llama)
    assert str(caught.value) == said
