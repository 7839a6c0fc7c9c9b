"""One record of a blend from text to merge: what is parsed, what is refused before any pass, held-out losses."""

import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

import made_by_peft
from headstart.backbones import Backbone
from headstart.blending import RULES, Blend, LayerWeights, Request, Rule, Weighed, Weights, effective_number
from headstart.blending.ensemble import blend_note, ensemble
from headstart.errors import MergeError, SettingError
from headstart.kinds import Module, load_module
from headstart.ranking import scorer
from headstart.tasks import Task
from small_hub import RECIPE, module, write_task


@pytest.mark.parametrize(
    ("text", "blend"),
    [
        ("softmax", Blend()),
        ("softmax:indicator=loss,temperature=0.1", Blend(indicator="loss", temperature=0.1)),
        ("softmax:effective=3,space=svd,rank=8", Blend(effective=3, space="svd", rank=8)),
        ("top_k:indicator=grand:block=3,sublayer=attention,top_k=2",
         Blend(rule="top_k", indicator="grand:block=3,sublayer=attention", top_k=2)),
        ("manual:members=ada,bob,ada,space=exact", Blend(rule="manual", members=("ada", "bob"), space="exact")),
        (" uniform : density=0.2 , space=ties", Blend(rule="uniform", density=0.2, space="ties")),
    ],
)  # fmt: skip
def test_a_text_is_a_blend(text: str, blend: Blend) -> None:
    assert Blend.parse(text) == blend
    assert Blend.from_json(blend.to_json(), source="it") == blend


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("softmax:temprature=1", "has the unknown field 'temprature'; choose one of: rule, indicator, temperature"),
        ("softmax:indicator=loss,temprature=1", "has the unknown field 'temprature'; choose one of: rule"),
        ("softmax:temperature", "has 'temperature' without a value; write field=value"),
        ("softmax:temperature=warm", "temperature='warm' of a blend: Input should be a valid number.*; correct it"),
        ("top_k:top_k=2,top_k=3", "gives top_k twice; keep one of them"),
    ],
)
def test_a_text_that_is_no_blend(text: str, message: str) -> None:
    with pytest.raises(SettingError, match=message):
        Blend.parse(text)
    with pytest.raises(SettingError, match="a blend has no field 'tau'; choose one of: rule, indicator"):
        Blend().change(tau=1)


@pytest.fixture(scope="module")
def backbone(tiny_llama: Path) -> Backbone:
    return Backbone.load(tiny_llama, device="cpu", dtype="float32")


@pytest.fixture(scope="module")
def hub(backbone: Backbone) -> list[Module]:
    return [module(backbone, name, seed=seed) for seed, name in enumerate(("ada", "bob", "cyd", "dan"))]


@pytest.fixture(scope="module")
def task(tmp_path_factory: pytest.TempPathFactory) -> Task:
    return Task.load(write_task(tmp_path_factory.mktemp("task") / "task"))


@pytest.mark.parametrize("indicator", ["cosine", "loss"])
def test_by_default_the_effective_number_does_not_depend_on_the_indicator_s_scale(
    indicator: str, task: Task, hub: list[Module], backbone: Backbone
) -> None:
    start = ensemble(task, hub, backbone, blend=Blend(indicator=indicator), recipe=RECIPE)
    assert start.merged.effective == pytest.approx(2.0, rel=1e-6), "√4"
    assert start.temperature is not None
    assert f"{indicator} at τ = {start.temperature:.4g}: effective number of modules 2.00 of 4" in blend_note(start)
    three = ensemble(task, hub, backbone, blend=Blend(indicator=indicator, effective=3), recipe=RECIPE)
    assert three.merged.effective == pytest.approx(3.0, rel=1e-6)


def test_unequal_ranks_are_refused_before_any_pass_and_auto_takes_them(
    task: Task, hub: list[Module], backbone: Backbone, monkeypatch: pytest.MonkeyPatch
) -> None:
    mixed = [*hub, module(backbone, "fat", seed=9, rank=3)]
    start = ensemble(task, mixed, backbone, recipe=RECIPE)
    assert (start.merged.space, start.module.card.rank, len(start.module.card.donors)) == ("svd", 3, 5)
    single = ensemble(task, mixed, backbone, blend="best_single:space=parameters", recipe=RECIPE)
    assert single.merged.error == 0.0, "one alone needs no other of its shape"
    monkeypatch.setattr(scorer, "run", lambda *_, **__: pytest.fail("it scored"))
    message = r"is 3×32 in 'fat' and 2×32 in 'ada'; merge them with space 'exact' or 'svd', or leave one out"
    for blend in ("softmax:space=parameters", "uniform:space=ties", "top_k:top_k=2,space=dare"):
        with pytest.raises(MergeError, match=message):
            ensemble(task, mixed, backbone, blend=blend, recipe=RECIPE)
    pair = ensemble(task, mixed, backbone, blend="manual:members=ada,bob,space=parameters")
    assert pair.merged.weights == (0.5, 0.5, 0, 0, 0), "those that take no part need not fit"


def test_a_variant_that_cannot_be_merged_is_not_counted(
    task: Task, hub: list[Module], backbone: Backbone, tiny_llama: Path, tmp_path: Path
) -> None:
    dora = load_module(made_by_peft.make(tiny_llama, tmp_path / "dora", use_dora=True))
    start = ensemble(task, [*hub, dora], backbone, blend="uniform", recipe=RECIPE)
    assert f"effective number of modules {len(hub)}.00 of {len(hub)}, space" in blend_note(start)


class Best(Rule):
    """All weight on the module whose held-out loss is lowest, layer 1 apart: as a learned rule would ask."""

    name = "lowest_loss"
    source = "this test"
    needs = frozenset({"loss"})

    def weigh(self, request: Request) -> Weighed:
        count = len(request.candidates)
        tried = [tuple(float(place == index) for place in range(count)) for index in range(count)]
        losses = request.held_out.losses([Weights(modules=one) for one in tried])
        best = tried[losses.index(min(losses))]
        half = LayerWeights(layers=("model.layers.1",), modules=tuple(1 / count for _ in range(count)))
        return Weighed(Weights(modules=best, groups=(half,)))


@pytest.fixture
def lowest_loss(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(RULES, "_added", ["lowest_loss"])
    monkeypatch.setitem(RULES._loaded, "lowest_loss", Best())


@pytest.mark.usefixtures("lowest_loss")
def test_a_rule_may_ask_for_the_held_out_loss_of_weights(task: Task, hub: list[Module], backbone: Backbone) -> None:
    asked: list[str] = []

    def held_out(found: Module) -> float:
        (donor,) = found.card.donors
        asked.append(donor.name)
        return {"ada": 3.0, "bob": 1.0, "cyd": 2.0, "dan": math.inf}[donor.name]

    start = ensemble(task, hub, backbone, blend="lowest_loss", held_out=held_out)
    assert asked == ["ada", "bob", "cyd", "dan"]
    assert start.ranking.scores.values == {}, "it needs no scores, so there was no pass"
    assert start.merged.weights == pytest.approx((0.125, 0.625, 0.125, 0.125))
    assert effective_number(start.merged.weights) == pytest.approx(start.merged.effective)
    first, bob = start.module.parameters(), hub[1].parameters()
    assert all(torch.equal(value, bob[name]) for name, value in first.items() if ".layers.0." in name)
    own = ensemble(task, hub, backbone, blend="lowest_loss")
    assert max(own.merged.weights) == pytest.approx(0.625), "without one, the task's train rows decide"


def test_every_rule_says_what_it_needs() -> None:
    needs: Callable[[str], frozenset[str]] = lambda name: RULES[name].needs  # noqa: E731
    assert {name: sorted(needs(name)) for name in RULES} == {
        "softmax": ["scores"], "uniform": [], "top_k": ["scores"], "best_single": ["scores"], "manual": [],
        "held_out": ["loss", "scores"], "gradient": ["loss"], "nevergrad": ["loss"],
    }  # fmt: skip
