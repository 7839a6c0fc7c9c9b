"""Tuning and evaluation through the store: computed once, whatever they are called, and continued when killed."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from encoder_tasks import RECIPE as ENCODER_RECIPE
from encoder_tasks import a_task
from encoders import encoder, random_module
from headstart.backbones import Backbone, BackboneInput, backbone_loaders
from headstart.errors import SettingError, TaskError
from headstart.evaluating.calibration import Calibration, fit_calibration
from headstart.evaluating.evaluate_many import evaluate_many
from headstart.evaluating.unit import EvaluateUnit
from headstart.events import Event, Progress, UnitEvent
from headstart.indicators import INDICATORS
from headstart.indicators.unit import ScoreUnit
from headstart.kinds import AnyModule, LoraModule, load_module, save_module
from headstart.tasks import METRICS, Example, Task, head_of
from headstart.tasks.content import rows_read
from headstart.testing import tiny_backbone
from headstart.tuning.optimizers import OPTIMIZERS
from headstart.tuning.tune import Lane, Tuned, text_format_of, tune, tune_lanes
from headstart.tuning.unit import TuneUnit
from headstart.units import Content, Store, run
from program import QUICK
from small_hub import RECIPE, module, write_task
from test_score_table import lazy


@pytest.fixture(scope="module")
def task(tmp_path_factory: pytest.TempPathFactory) -> Task:
    return Task.load(write_task(tmp_path_factory.mktemp("tuned") / "reviews"))


def tuned(task: Task, backbone: Backbone, store: Path, **settings: Any) -> tuple[Tuned, str]:
    """What came out, and whether it was "computed" or "reused"."""
    heard: list[Event] = []
    found = tune(task, backbone, **{"recipe": RECIPE, "store": store, **settings}, progress=heard.append)
    ended = [event for event in heard if isinstance(event, UnitEvent) and event.state != "started"]
    (state,) = [event.state for event in ended if event.type == "tune"]
    return found, state


def test_what_was_tuned_is_not_tuned_again_whatever_it_is_called(task: Task, llama: Backbone, tmp_path: Path) -> None:
    first, state = tuned(task, llama, tmp_path)
    assert state == "computed"
    again, state = tuned(task, llama, tmp_path, name="mine", license="mit", recipe=RECIPE.change(name="other"))
    assert state == "reused"
    assert again.module.digest() == first.module.digest()
    assert repr((again.curve, again.best, again.notes)) == repr((first.curve, first.best, first.notes))
    assert (again.module.card.name, again.module.card.license) == ("mine", "mit")
    assert "Tuned with recipe 'other', seed 0; best at step" in again.module.card.notes
    renamed = replace(task, card=task.card.model_copy(update={"name": "mine", "family": "new"}))
    again, state = tuned(renamed, llama, tmp_path)
    assert (state, again.module.card.task, again.module.card.family) == ("reused", "mine", "new")


def test_a_licence_that_changed_since_is_on_the_card(task: Task, llama: Backbone, tmp_path: Path) -> None:
    start = module(llama, "start", seed=4, dataset_license="cc-by-4.0")
    other = replace(task, card=task.card.model_copy(update={"license": "odbl"}))
    for begun, before, after in ((None, "mit", "odbl"), (start, "cc-by-4.0; mit", "cc-by-4.0; odbl")):
        first = replace(task, card=task.card.model_copy(update={"license": "mit"}))
        assert tuned(first, llama, tmp_path, start=begun)[0].module.card.dataset_license == before
        again, state = tuned(other, llama, tmp_path, start=begun)
        assert (state, again.module.card.dataset_license) == ("reused", after)


def test_whether_a_start_keeps_its_head_counts_before_it_is_read(tmp_path: Path) -> None:
    bert, (one, other) = encoder("bert"), (a_task("classification", name=name) for name in ("reviews", "other"))
    start = random_module(bert, head_of(one.card))
    start = replace(start, card=start.card.model_copy(update={"task": "reviews"}))
    assert isinstance(start, LoraModule)

    def unit(task: Task, begun: AnyModule) -> TuneUnit:
        return TuneUnit.of(task, BackboneInput.of(bert), start=begun, recipe=ENCODER_RECIPE, seed=0)

    for begun in (start, lazy(start, tmp_path, bert)):
        assert unit(one, begun).key != unit(other, begun).key, "the other begins with a fresh head"


def test_the_card_says_how_further_rows_are_read_and_answered(task: Task, llama: Backbone, tmp_path: Path) -> None:
    first, _ = tuned(task, llama, tmp_path, calibration="batch")
    card = first.module.card
    assert (card.template, card.labels, card.options) == (task.card.template, task.card.labels, task.card.options)
    (dev,), (train,) = (evaluate_many([first.module], rows, llama, metric="ACC") for rows in (task.dev, task.train))
    assert card.calibration == fit_calibration(dev, train, method="batch")
    again, state = tuned(task, llama, tmp_path, calibration="length")
    assert (state, again.module.card.calibration) == ("reused", Calibration(method="length"))
    assert tuned(task, llama, tmp_path)[0].module.card.calibration == fit_calibration(dev, train)
    opened = {split: tuple(replace(row, options=None) for row in rows) for split, rows in task.splits.items()}
    with pytest.raises(SettingError, match=r"the rows of 'reviews' are answered in open text; leave it at auto$"):
        tuned(replace(task, splits=opened), llama, tmp_path, calibration="length")


def test_a_backbone_with_other_settings_is_another(task: Task, tmp_path: Path) -> None:
    backbone = tiny_backbone("llama")
    tuned(task, backbone, tmp_path)
    backbone.model.config.transformers_version, backbone.model.config.use_cache = "99.0", False
    same = Backbone(backbone.model, backbone.tokenizer, name="elsewhere")
    assert tuned(task, same, tmp_path)[1] == "reused"
    backbone.model.config.rms_norm_eps = 0.5
    other = Backbone(backbone.model, backbone.tokenizer, name=backbone.name)
    assert other.fingerprint.same_as(backbone.fingerprint), "its weights are the same"
    assert tuned(task, other, tmp_path)[1] == "computed"


def test_a_raised_version_of_optimizer_metric_or_indicator_is_computed_again(
    task: Task, llama: Backbone, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert tuned(task, llama, tmp_path)[1] == "computed"
    rows, identity = Content.of(task.test), BackboneInput.of(llama)
    tests = [EvaluateUnit(identity, None, rows, name, "auto", text_format_of(RECIPE)).key for name in ("ACC", "EM")]
    monkeypatch.setattr(type(OPTIMIZERS[RECIPE.optimizer]), "version", 2)
    assert tuned(task, llama, tmp_path)[1] == "computed"
    assert tuned(task, llama, tmp_path)[1] == "reused"
    monkeypatch.setitem(METRICS._loaded, "ACC", replace(METRICS["ACC"], version=2))
    assert tuned(task, llama, tmp_path)[1] == "computed"
    again = [EvaluateUnit(identity, None, rows, name, "auto", text_format_of(RECIPE)).key for name in ("ACC", "EM")]
    assert (again[0] != tests[0], again[1] == tests[1]) == (True, True)
    lora = module(llama, "one", seed=1)

    def key() -> str:
        return ScoreUnit(identity, lora, rows_read(task.train), "grand:block=1", text_format_of(RECIPE)).key

    before = key()
    monkeypatch.setattr(INDICATORS["grand"], "version", 3)
    assert key() != before


def test_where_a_start_comes_from_does_not_count(task: Task, llama: Backbone, tmp_path: Path) -> None:
    start = module(llama, "start", seed=4)
    said = {"base_model_name_or_path": "elsewhere", "peft_version": "99", "revision": "main", "lora_dropout": 0.0}
    told = replace(start, config={**start.config, **said})
    assert told.digest() == start.digest() != replace(start, config={**start.config, "use_rslora": True}).digest()
    tuned(task, llama, tmp_path, start=start)
    assert tuned(task, llama, tmp_path, start=told)[1] == "reused"


def test_it_is_what_is_tuned_without_a_store(task: Task, llama: Backbone, tmp_path: Path) -> None:
    kept, _ = tuned(task, llama, tmp_path / "store")
    ((_, plain),) = tune_lanes([Lane(task, recipe=RECIPE)], llama, most=1)
    assert kept.module.digest() == plain.module.digest()
    assert kept.module.card.calibration is not None
    assert kept.module.card.model_copy(update={"calibration": None}) == plain.module.card
    assert repr((kept.curve, kept.best, kept.notes)) == repr((plain.curve, plain.best, plain.notes))


@pytest.mark.parametrize(
    ("changed", "state"),
    [
        ({"seed": 1}, "computed"),
        ({"recipe": RECIPE.change(lr=0.5)}, "computed"),
        ({"recipe": RECIPE.change(rank=3)}, "computed"),
        ({"recipe": RECIPE.change(max_dev=1000)}, "reused"),
        ({"recipe": RECIPE.change(max_dev=3)}, "computed"),
    ],
)
def test_what_counts(changed: dict[str, Any], state: str, task: Task, llama: Backbone, tmp_path: Path) -> None:
    tuned(task, llama, tmp_path)
    assert tuned(task, llama, tmp_path, **changed)[1] == state


def test_of_the_rows_those_of_train_and_dev_count(task: Task, llama: Backbone, tmp_path: Path) -> None:
    tuned(task, llama, tmp_path)
    more = replace(task, splits={**task.splits, "test": (*task.test, Example("one more", ("positive",)))})
    assert tuned(more, llama, tmp_path)[1] == "reused"
    fewer = replace(task, splits={**task.splits, "dev": task.dev[1:]})
    assert tuned(fewer, llama, tmp_path)[1] == "computed"


def test_the_shape_of_a_fresh_module_does_not_count_for_a_given_start(
    task: Task, llama: Backbone, tmp_path: Path
) -> None:
    start = module(llama, "ada", seed=1)
    save_module(start, tmp_path / "ada")
    first, _ = tuned(task, llama, tmp_path / "store", start=load_module(tmp_path / "ada"))
    card = start.card.model_copy(update={"name": "eve", "license": "apache-2.0", "tensor_hash": "f" * 64})
    again, state = tuned(task, llama, tmp_path / "store", start=replace(start, card=card), recipe=RECIPE.change(rank=9))
    assert (state, again.module.digest()) == ("reused", first.module.digest())
    assert [donor.name for donor in first.module.card.donors] == ["ada"]
    assert [donor.name for donor in again.module.card.donors] == ["eve"]
    assert again.module.card.license == "apache-2.0"


def stop(event: Event) -> None:
    """A listener that presses Ctrl-C at the third step."""
    if isinstance(event, Progress) and event.done == 3:
        raise KeyboardInterrupt


def test_a_stopped_tuning_continues(task: Task, llama: Backbone, tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        tune(task, llama, recipe=RECIPE, store=tmp_path, progress=stop)
    steps: list[int] = []
    found = tune(
        task, llama, recipe=RECIPE, store=tmp_path,
        calibration="none",
        progress=lambda event: steps.append(event.done) if isinstance(event, Progress) else None,
    )  # fmt: skip
    assert steps == [3, 4]
    assert found.module.digest() == tune(task, llama, recipe=RECIPE, store=False).module.digest()
    assert list((tmp_path / "work").iterdir()) == []


def test_a_checkpoint_of_one_s_own_is_continued_and_the_result_kept(
    task: Task, llama: Backbone, tmp_path: Path
) -> None:
    mine = tmp_path / "mine" / "run.partial"
    with pytest.raises(KeyboardInterrupt):
        tune(task, llama, recipe=RECIPE, store=tmp_path, checkpoint=mine, progress=stop)
    kept = mine.read_bytes()
    steps: list[int] = []
    found = tune(
        task, llama, recipe=RECIPE, store=tmp_path, checkpoint=mine,
        calibration="none",
        progress=lambda event: steps.append(event.done) if isinstance(event, Progress) else None,
    )  # fmt: skip
    assert steps == [3, 4]
    assert mine.read_bytes() != kept, "it is written until the end, and its owner's to remove"
    again, state = tuned(task, llama, tmp_path)
    assert (state, again.module.digest()) == ("reused", found.module.digest())


@pytest.mark.parametrize("left", [0, -100])
def test_a_damaged_checkpoint_in_the_store_stops_nothing(
    left: int, task: Task, llama: Backbone, tmp_path: Path
) -> None:
    with pytest.raises(KeyboardInterrupt):
        tune(task, llama, recipe=RECIPE, store=tmp_path, progress=stop)
    (checkpoint,) = tmp_path.glob("work/*/checkpoint")
    checkpoint.write_bytes(checkpoint.read_bytes()[:left])  # as a power cut may leave it
    steps: list[int] = []
    found = tune(
        task, llama, recipe=RECIPE, store=tmp_path,
        calibration="none",
        progress=lambda event: steps.append(event.done) if isinstance(event, Progress) else None,
    )  # fmt: skip
    assert steps == [1, 2, 3, 4]
    assert found.module.digest() == tune(task, llama, recipe=RECIPE, store=False).module.digest()


def test_errors_are_those_of_the_tuning(task: Task, llama: Backbone, tmp_path: Path) -> None:
    empty = replace(task, splits={**task.splits, "dev": ()})
    with pytest.raises(TaskError, match=r"^task 'reviews' has an empty train or dev split; add rows to it$"):
        tune(empty, llama, recipe=RECIPE, store=tmp_path)
    with pytest.raises(SettingError, match="unknown engine 'ray'"):
        tune(task, llama, recipe=RECIPE, store=tmp_path, engine="ray")


def test_lanes_of_a_graph_are_evaluated_when_they_are_done(task: Task, llama: Backbone, tmp_path: Path) -> None:
    identity, store = BackboneInput.of(llama), Store(tmp_path)
    lanes = [TuneUnit.of(task, identity, start=None, recipe=RECIPE, seed=seed) for seed in range(3)]
    rows = Content(task.test, task.fingerprint("test"))
    text_format = text_format_of(RECIPE)
    tests = [EvaluateUnit(identity, lane, rows, "ACC", "auto", text_format) for lane in lanes]
    found = run(tests, store=store, loaders=backbone_loaders(llama))
    assert found.tally.to_json() == {"computed": {"tune": 3, "evaluate": 3}, "reused": {}}
    modules = [lane.tuned(found.of(lane)).module for lane in lanes]
    direct = evaluate_many(modules, task.test, llama, metric="ACC", text_format=text_format)
    for unit, expected in zip(tests, direct, strict=True):
        evaluation = unit.evaluation(found.of(unit))
        assert evaluation.predictions == expected.predictions
        assert evaluation.loss == pytest.approx(expected.loss, rel=1e-5)
    alone = tune(task, llama, recipe=RECIPE, seed=1, store=False)
    for name, value in alone.module.parameters().items():
        assert modules[1].parameters()[name].sub(value).abs().max() < 1e-4
    again = run([*tests, *lanes], store=store, loaders=backbone_loaders(llama)).tally
    assert again.to_json() == {"computed": {}, "reused": {"evaluate": 3, "tune": 3}}


@pytest.mark.slow  # two programs, each of which imports torch
def test_two_commands_tune_one_thing_once(task: Task, tiny_llama: Path, tmp_path: Path) -> None:
    write_task(tmp_path / "reviews")
    on = ["--backbone", tiny_llama, "--device", "cpu", "--dtype", "float32", "--store", tmp_path / "store", *QUICK]
    started = [
        subprocess.Popen(
            [sys.executable, "-m", "headstart", "tune", tmp_path / "reviews", "-o", tmp_path / name, *on, "--json"],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"},
        )
        for name in ("one", "two")
    ]  # fmt: skip
    ended = [process.communicate(timeout=300) for process in started]
    assert [process.returncode for process in started] == [0, 0], ended
    units = [json.loads(out)["units"] for out, _ in ended]
    assert sorted(units, key=str) == [
        {"computed": {"tune": 1}, "reused": {}},
        {"computed": {}, "reused": {"tune": 1}},
    ]
    assert load_module(tmp_path / "one").digest() == load_module(tmp_path / "two").digest()
