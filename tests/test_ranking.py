import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from headstart.backbones import Backbone, TextFormat
from headstart.blending import Blend, merge
from headstart.blending import ensemble as blending
from headstart.blending.ensemble import blend_note, ensemble, unscored, weight_table
from headstart.errors import HubError, MergeError, ModuleError, SettingError, TaskError
from headstart.events import Event, Progress, UnitEvent
from headstart.hub import Hub
from headstart.indicators.engine import score
from headstart.kinds import LazyModule, LoraModule, Module, load_module, save_module, stacks
from headstart.ranking import rank as rank_module
from headstart.ranking.rank import Ranking, fits, load_modules, rank, reference_unit, scoring_examples
from headstart.records import TaskCard
from headstart.tasks import Example, Task
from headstart.tuning import unit as tuning
from headstart.tuning.recipes import RECIPES
from headstart.tuning.tune import Lane, tune_lanes
from small_hub import LABELS, RECIPE, filled, misfit, module, write_hub

pytest_plugins = ["small_road"]

NAMES = ("ada", "bob", "cyd", "dan")


@pytest.fixture
def tunes(monkeypatch: pytest.MonkeyPatch) -> list[Lane]:
    """What was tuned, call by call."""
    tuned: list[Lane] = []

    def counted(lanes: Sequence[Lane], *args: Any, **settings: Any) -> Any:
        tuned.extend(lanes)
        return tune_lanes(lanes, *args, **settings)

    monkeypatch.setattr(tuning, "tune_lanes", counted)
    return tuned


def loaded(hub: Hub) -> list[Module]:
    return [load_module(hub.read(name)) for name in hub]


def test_every_module_of_the_hub_is_scored(hub: Hub, task: Task, llama: Backbone) -> None:
    ranking = rank(task, hub, llama, indicators=("cosine", "loss"), recipe=RECIPE)
    text_format = TextFormat(max_input=48, max_target=8)
    direct = score(loaded(hub), task.dev, llama, indicators=("cosine", "loss"), text_format=text_format)
    assert ranking.scores == direct
    assert tuple(found.name for found in ranking.modules) == ranking.scores.names == NAMES
    assert (ranking.refused, ranking.reference) == ((), None)


def test_a_single_text_is_one_indicator(hub: Hub, task: Task, llama: Backbone) -> None:
    assert rank(task, hub, llama, indicators="loss", recipe=RECIPE).scores.values.keys() == {"loss"}


def test_the_frame_has_the_best_first(hub: Hub, task: Task, llama: Backbone) -> None:
    frame = rank(task, hub, llama, indicators=("el2n", "cosine"), recipe=RECIPE).frame()
    assert list(frame.columns) == ["module", "task", "family", "license", "el2n", "cosine"]
    assert sorted(frame["module"]) == sorted(NAMES)
    assert frame["el2n"].is_monotonic_decreasing
    facts = frame.set_index("module")
    assert tuple(facts.loc["ada", ["family", "license"]]) == ("reviews", "mit")
    assert facts.loc["dan", "task"] == "reviews"


def test_equals_keep_their_order_and_the_missing_come_last() -> None:
    frame = pd.DataFrame({"module": list("abcd"), "x": [0.5, math.nan, 1.0, 0.5]})
    assert list(rank_module.best_first(frame, "x")["module"]) == ["c", "a", "d", "b"]


def test_an_unfit_module_is_refused_with_the_reason_and_the_others_are_scored(
    task: Task, llama: Backbone, tmp_path: Path
) -> None:
    hub = write_hub(tmp_path / "hub", llama)
    save_module(misfit(llama, "eve"), tmp_path / "eve")
    hub.add(tmp_path / "eve")
    (hub.path / "bob" / "adapter_model.safetensors").write_bytes(b"cut short")
    ranking = rank(task, Hub.open(hub.path), llama, recipe=RECIPE)
    assert ranking.scores.names == ("ada", "cyd", "dan")
    reasons = {refused.name: refused.reason for refused in ranking.refused}
    assert set(reasons) == {"bob", "eve"}
    assert "model.layers.7.self_attn.q_proj, which tiny-llama does not have" in reasons["eve"]
    assert "adapter_model.safetensors" in reasons["bob"]
    start = ensemble(task, hub, llama, ranking=ranking)
    assert [donor.name for donor in start.module.card.donors] == ["ada", "cyd", "dan"]


def test_a_hub_without_a_fitting_module_is_an_error(task: Task, llama: Backbone, tmp_path: Path) -> None:
    hub = Hub.create(tmp_path / "hub")
    with pytest.raises(HubError, match=r"has no module that fits tiny-llama; add some with headstart hub add"):
        rank(task, hub, llama)
    save_module(misfit(llama, "eve"), tmp_path / "eve")
    hub.add(tmp_path / "eve")
    with pytest.raises(HubError, match=r"tiny-llama; the first of 1 refused: .*which tiny-llama does not have"):
        rank(task, hub, llama)


def test_given_modules_are_checked(task: Task, llama: Backbone, hub: Hub) -> None:
    with pytest.raises(HubError, match="there is no module to rank; give at least one"):
        rank(task, [], llama)
    with pytest.raises(ModuleError, match="which tiny-llama does not have"):
        rank(task, [misfit(llama, "eve")], llama)
    ada = loaded(hub)[0]
    with pytest.raises(HubError, match="2 of the modules are named 'ada'; give each its own name"):
        rank(task, [ada, ada], llama)
    assert load_modules([ada], llama) == ([ada], [])


def test_of_each_shape_one_module_is_read(hub: Hub, llama: Backbone, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[str] = []

    def counted(stored: Any) -> Module:
        read.append(stored.card.name)
        return load_module(stored)

    monkeypatch.setattr(rank_module, "load_module", counted)
    modules, _ = load_modules(hub, llama)
    assert read == ["ada"]
    assert all(isinstance(found, LazyModule) for found in modules)
    for lazy, module_ in zip(modules, loaded(hub), strict=True):
        assert (lazy.name, lazy.kind, lazy.family, lazy.card) == (module_.name, "lora", LoraModule, module_.card)
        assert lazy.stack_key == module_.stack_key
        assert lazy.load().digest() == module_.digest()
        assert lazy.digest() == hub.ref(lazy.name).digest
    assert stacks(modules, most=64) == [[0, 1, 2, 3]]


def test_a_module_that_breaks_before_its_stack_is_read_has_no_value(
    task: Task, llama: Backbone, tmp_path: Path
) -> None:
    hub = write_hub(tmp_path / "hub", llama)
    modules, _ = load_modules(hub, llama)
    (hub.path / "bob" / "adapter_model.safetensors").write_bytes(b"cut short")
    ranking = rank(task, modules, llama, indicators=("cosine", "tupate"), recipe=RECIPE)
    for values in ranking.scores.values.values():
        assert [name for name, value in zip(NAMES, values, strict=True) if math.isnan(value)] == ["bob"]
    assert {name: set(why) for name, why in ranking.scores.reasons.items()} == {"cosine": {"bob"}, "tupate": {"bob"}}
    assert "is not a sound safetensors file" in ranking.scores.reasons["cosine"]["bob"]


def test_lazy_modules_are_checked_against_another_backbone(hub: Hub, llama: Backbone, gpt2: Backbone) -> None:
    modules, _ = load_modules(hub, llama)
    with pytest.raises(ModuleError, match="was made for another backbone"):
        load_modules(modules, gpt2)


def test_fits_is_the_check_for_a_hub(llama: Backbone, tmp_path: Path) -> None:
    save_module(misfit(llama, "eve"), tmp_path / "eve")
    save_module(module(llama, "ada", seed=1), tmp_path / "ada")
    found = Hub.create(tmp_path / "hub").add_all([tmp_path / "eve", tmp_path / "ada"], check=fits(llama))
    assert [admission.card is not None for admission in found] == [False, True]
    assert "which tiny-llama does not have" in (found[0].reason or "")


@pytest.mark.parametrize(("labels", "rows"), [(LABELS, 30), (None, 50)])
def test_modules_are_scored_on_as_many_dev_rows_as_in_the_paper(labels: tuple[str, ...] | None, rows: int) -> None:
    dev = tuple(Example(f"row {index}", (LABELS[index % 2],), labels) for index in range(60))
    task = Task(TaskCard(name="t", metric="ACC", labels=labels), {"dev": dev})
    assert len(scoring_examples(task)) == rows
    assert len(scoring_examples(task, rows=7)) == 7
    assert set(scoring_examples(task, seed=1)) <= set(dev)
    assert scoring_examples(task, seed=1) != scoring_examples(task, seed=2)
    assert scoring_examples(task, rows=99) == dev
    with pytest.raises(SettingError, match="cannot take 0 rows of split 'dev'"):
        scoring_examples(task, rows=0)


def test_the_reference_module_is_tuned_once(hub: Hub, task: Task, llama: Backbone, tunes: list[Lane]) -> None:
    ranking = rank(task, hub, llama, indicators=("kl", "tupate", "cosine"), recipe=RECIPE)
    (lane,) = tunes
    assert (lane.recipe.max_steps, lane.recipe.eval_every) == (4, 2)
    reference = ranking.reference
    assert isinstance(reference, LoraModule)
    assert reference.stack_key == ranking.modules[0].stack_key
    assert all(np.isfinite(ranking.scores.values[name]).all() for name in ("kl", "tupate"))
    again = rank(task, hub, llama, indicators=("kl",), recipe=RECIPE, reference=reference)
    assert len(tunes) == 1
    assert again.scores.values["kl"] == ranking.scores.values["kl"]


def test_indicators_that_need_no_reference_tune_nothing(
    hub: Hub, task: Task, llama: Backbone, tunes: list[Lane]
) -> None:
    rank(task, hub, llama, indicators=("cosine", "grand"), recipe=RECIPE)
    assert tunes == []


def test_the_reference_module_is_200_steps_of_a_long_recipe(hub: Hub, task: Task, llama: Backbone) -> None:
    modules, _ = load_modules(hub, llama)
    recipe = reference_unit(task, llama, like=modules, recipe=RECIPES["few-shot"]).recipe
    assert (recipe.max_steps, recipe.eval_every, recipe.patience) == (200, 50, 200)


def test_the_reference_module_has_the_commonest_shape(task: Task, llama: Backbone) -> None:
    like = [module(llama, f"m{index}", seed=index, rank=rank) for index, rank in enumerate((3, 2, 2))]
    start = reference_unit(task, llama, like=like, recipe=RECIPE).start
    assert isinstance(start, LoraModule)
    assert start.stack_key == like[1].stack_key
    with pytest.raises(ModuleError, match="no module here can shape the reference module"):
        reference_unit(task, llama, like=[], recipe=RECIPE)


@pytest.mark.parametrize("indicator", ["cosine", "loss"])
def test_an_ensemble_has_the_weights_worked_by_hand(indicator: str, hub: Hub, task: Task, llama: Backbone) -> None:
    start = ensemble(task, hub, llama, blend=Blend(indicator=indicator, temperature=0.1), recipe=RECIPE)
    values = np.array(start.ranking.scores.values[indicator])
    powers = np.exp(values / 0.1)
    assert start.merged.weights == pytest.approx(powers / powers.sum(), rel=1e-9)
    assert start.temperature == 0.1
    expected = merge(start.ranking.modules, start.merged.weights)
    assert all(
        torch.equal(value, expected.module.state_dict()[name]) for name, value in start.module.state_dict().items()
    )
    assert start.module.name == "reviews-start"
    assert len(start.module.card.donors) == 4


def test_top_k_and_temperature_and_name_are_passed_on(hub: Hub, task: Task, llama: Backbone) -> None:
    ranking = rank(task, hub, llama, recipe=RECIPE)
    start = ensemble(task, hub, llama, ranking=ranking, blend="softmax:temperature=1,top_k=2,space=exact", name="s")
    best = sorted(ranking.scores.values["cosine"])[-2:]
    expected = np.exp(best) / np.exp(best).sum()
    assert sorted(start.merged.weights) == pytest.approx([0, 0, *expected])
    assert start.module.card.rank == 4
    assert start.module.name == "s"
    frame = weight_table(start)
    assert list(frame.columns)[-2:] == ["cosine", "weight"]
    assert dict(zip(frame["module"], frame["weight"], strict=True)) == dict(
        zip(NAMES, start.merged.weights, strict=True)
    )
    note = blend_note(start)
    assert note.startswith("cosine at τ = 1: effective number of modules 2.00 of 4, space 'exact', ΔW error ")


def test_a_ranking_by_another_indicator_is_refused(hub: Hub, task: Task, llama: Backbone) -> None:
    ranking = rank(task, hub, llama, indicators=("loss", "el2n"), recipe=RECIPE)
    with pytest.raises(SettingError) as caught:
        ensemble(task, hub, llama, ranking=ranking)
    assert str(caught.value) == (
        "the ranking holds no scores by 'cosine', but by loss, el2n; rank by it too, or name one of these in the blend "
        "(softmax:indicator=loss)"
    )
    none = unscored(ranking.modules, "mean")
    with pytest.raises(SettingError, match="no scores by 'cosine', nor by another indicator; rank by it first"):
        ensemble(task, hub, llama, ranking=none)


def test_an_ensemble_takes_every_module_of_mixed_shapes_in_exact(task: Task, llama: Backbone) -> None:
    mixed = [module(llama, "thin", seed=1), module(llama, "thick", seed=2, rank=3)]
    with pytest.raises(MergeError, match="merge them with space 'exact' or 'svd', or leave one out"):
        ensemble(task, mixed, llama, recipe=RECIPE, blend=Blend(space="parameters"))
    start = ensemble(task, mixed, llama, recipe=RECIPE, blend=Blend(space="exact", temperature=1.0))
    assert start.module.card.rank == 5
    start.module.check(llama)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"indicator": "cosin"}, "unknown indicator 'cosin'; choose one of: loss, cosine"),
        ({"space": "tie"}, "unknown merge space 'tie'; choose one of: parameters, exact, svd"),
        ({"temperature": 0.0}, "temperature 0.0 must be above 0"),
        ({"top_k": 0}, "top_k 0 must be at least 1"),
        ({"recipe": "fast"}, "unknown recipe 'fast'; choose one of: few-shot"),
        ({"reduction": "median"}, "unknown reduction 'median'; choose one of: mean, sum"),
        (
            {"density": 0.2},
            "density 0.2 is for spaces 'core_ties', 'ties' and 'dare'; leave it out, or merge in one of them",
        ),
        (
            {"space": "exact", "rank": 4},
            "rank 4 is for spaces 'svd', 'core', 'core_ties', 'core_tsv' and 'core_iso'; leave it out, or merge in one",
        ),
        ({"space": "ties", "density": 1.5}, "density 1.5 must be above 0 and at most 1"),
    ],
)
def test_a_wrong_name_is_known_before_any_work(
    settings: dict[str, Any], message: str, task: Task, llama: Backbone, monkeypatch: pytest.MonkeyPatch
) -> None:
    for home in (rank_module, blending):
        monkeypatch.setattr(home, "load_modules", lambda *_, **__: pytest.fail("it began to work"))
    blend = Blend(**{name: value for name, value in settings.items() if name != "recipe"})
    with pytest.raises(SettingError, match=message):
        ensemble(task, [filled({"x": (2, 2, 1)}, seed=0)], llama, blend=blend, recipe=settings.get("recipe", RECIPE))


def test_a_task_without_dev_rows_is_refused(task: Task, hub: Hub, llama: Backbone) -> None:
    bare = replace(task, splits={"train": task.train})
    with pytest.raises(TaskError, match="task 'reviews' has no split 'dev'"):
        rank(bare, hub, llama)


def test_progress_names_each_phase(hub: Hub, task: Task, llama: Backbone) -> None:
    seen: list[Event] = []
    rank(task, hub, llama, indicators=("kl",), recipe=RECIPE, progress=seen.append)
    steps = [event for event in seen if isinstance(event, Progress)]
    phases = dict.fromkeys(event.what for event in steps)
    assert list(phases) == ["reading modules", "tuning reference on reviews, seed 0", "scoring 4 modules × 12 examples"]
    assert all(event.done <= (event.total or 0) for event in steps)
    assert [(event.done, event.total) for event in steps if event.what == "reading modules"][-1] == (4, 4)


def test_what_was_scored_before_is_not_scored_again(
    hub: Hub, task: Task, llama: Backbone, tunes: list[Lane], tmp_path: Path
) -> None:
    def units(indicators: Sequence[str], **settings: Any) -> tuple[Ranking, dict[str, dict[str, int]]]:
        heard: list[Event] = []
        found = rank(
            task, hub, llama, indicators=indicators, **{"recipe": RECIPE, "store": tmp_path, **settings},
            progress=heard.append,
        )  # fmt: skip
        states: dict[str, dict[str, int]] = {"computed": {}, "reused": {}}
        for event in heard:
            if isinstance(event, UnitEvent) and event.state in states:
                states[event.state][event.type] = states[event.state].get(event.type, 0) + 1
        return found, states

    first, counts = units(["cosine", "kl"])
    assert counts == {"computed": {"tune": 1, "score": 8}, "reused": {}}
    again, counts = units(["cosine", "kl"])
    assert counts == {"computed": {}, "reused": {"tune": 1, "score": 8}}
    assert again.scores == first.scores
    assert (again.reference and again.reference.digest()) == (first.reference and first.reference.digest())
    # A recipe under another name is the same recipe; scores that need no reference module do not depend on it.
    assert units(["kl"], recipe=RECIPE.change(name="mine"))[1] == {"computed": {}, "reused": {"tune": 1, "score": 4}}
    assert units(["cosine"], recipe=RECIPE.change(lr=0.5))[1] == {"computed": {}, "reused": {"score": 4}}
    assert units(["cosine", "loss"], reduction="sum")[1] == {"computed": {"score": 4}, "reused": {"score": 4}}
    assert units(["cosine"], rows=5)[1] == {"computed": {"score": 4}, "reused": {}}
    assert len(tunes) == 1


def test_other_options_are_scored_anew(hub: Hub, task: Task, llama: Backbone, tmp_path: Path) -> None:
    def values(labels: tuple[str, ...]) -> tuple[float, ...]:
        rows = tuple(replace(row, options=labels) for row in task.dev)
        own = replace(task, splits={**task.splits, "dev": rows})
        found = rank(own, hub, llama, indicators=["option_accuracy", "loss"], recipe=RECIPE, store=tmp_path)
        return found.scores.values["option_accuracy"]

    assert min(values(("negative", "positive"))) < 1
    assert values(("positive",)) != values(("negative", "positive")), "the same inputs and answers"


def test_processes_rank_as_one_does(hub: Hub, task: Task, llama: Backbone) -> None:
    here = rank(task, hub, llama, indicators=("cosine", "kl"), recipe=RECIPE, store=False)
    there = rank(task, hub, llama, indicators=("cosine", "kl"), recipe=RECIPE, store=False, engine="processes=1")
    for name, values in here.scores.values.items():
        np.testing.assert_allclose(there.scores.values[name], values, rtol=1e-5)


def test_a_backbone_that_was_not_loaded_from_anywhere_runs_here_only(hub: Hub, task: Task, llama: Backbone) -> None:
    given = Backbone(llama.model, llama.tokenizer, name="mine")
    assert rank(task, hub, given, recipe=RECIPE).scores.examples == 12
    with pytest.raises(SettingError, match="name the backbone instead of passing a loaded one, or use engine 'serial'"):
        rank(task, hub, given, recipe=RECIPE, rows=3, engine="processes")


def test_a_module_that_vanishes_has_no_score_and_none_is_kept(task: Task, llama: Backbone, tmp_path: Path) -> None:
    hub = write_hub(tmp_path / "hub", llama)
    modules, _ = load_modules(hub, llama)
    weights = hub.path / "bob" / "adapter_model.safetensors"
    content = weights.read_bytes()
    weights.write_bytes(b"cut short")
    ranking = rank(task, modules, llama, recipe=RECIPE, store=tmp_path / "store")
    assert math.isnan(ranking.scores.values["cosine"][1])
    assert "adapter_model.safetensors" in ranking.scores.reasons["cosine"]["bob"]
    weights.write_bytes(content)
    again = rank(task, modules, llama, recipe=RECIPE, store=tmp_path / "store")
    assert np.isfinite(again.scores.values["cosine"]).all()
