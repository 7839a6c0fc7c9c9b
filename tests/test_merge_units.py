"""Merging and embedding through the store: once for equal contents, whatever modules are called."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from headstart.backbones import Backbone, BackboneInput, backbone_loaders
from headstart.blending import Blend, Weights, merge
from headstart.blending.ensemble import ensemble
from headstart.blending.merging import Merged, MergePlan
from headstart.blending.unit import MergeUnit
from headstart.embeddings import EmbedUnit, embed, tuned_parameters
from headstart.errors import MergeError, ModuleError
from headstart.events import Event, UnitEvent
from headstart.hub import Hub
from headstart.kinds import AnyModule, LoraModule, Module
from headstart.ranking.rank import load_modules
from headstart.tasks import Task
from headstart.testing import tiny_backbone
from headstart.tuning.unit import TuneUnit
from headstart.units import Store, run
from small_hub import RECIPE, filled, module, write_hub, write_task
from test_spaces import moved

WEIGHTS = (0.5, 0.3, 0.2)


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory, llama: Backbone) -> Hub:
    return write_hub(tmp_path_factory.mktemp("merged") / "hub", llama)


@pytest.fixture(scope="module")
def task(tmp_path_factory: pytest.TempPathFactory) -> Task:
    return Task.load(write_task(tmp_path_factory.mktemp("merged") / "reviews"))


def unit_of(modules: Any, weights: Any = WEIGHTS, *, backbone: Backbone | None = None, **options: Any) -> MergeUnit:
    name = options.pop("name", "merged")
    identity = None if backbone is None else BackboneInput.of(backbone)
    return MergeUnit.of(MergePlan.of(modules, weights, **options), backbone=identity, name=name)


def through_store(unit: MergeUnit, store: Path, backbone: Backbone | None = None) -> tuple[Merged, str]:
    """What came out, and whether it was "computed" or "reused"."""
    found = run([unit], store=Store(store), loaders={} if backbone is None else backbone_loaders(backbone))
    return unit.merged(found.of(unit)), "computed" if found.tally.computed else "reused"


def assert_same(one: Merged, other: Merged) -> None:
    assert one.module.digest() == other.module.digest()
    assert one.module.card == other.module.card
    assert (one.weights, one.space, one.effective, one.error) == (
        other.weights, other.space, other.effective, other.error,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("kind", "space"),
    [("lora", "parameters"), ("lora", "exact"), ("lora", "svd"), ("lora", "dare"), ("ia3", "ties"), ("bitfit", "ties"),
     ("prompt", "auto"), ("prefix", "auto"), ("adapter", "auto")],
)  # fmt: skip
def test_it_is_what_merge_returns(kind: str, space: str, tmp_path: Path) -> None:
    backbone = tiny_backbone("gpt2")
    modules = moved(kind, backbone, seeds=(1, 2, 3))
    direct = merge(modules, WEIGHTS, space=space, backbone=backbone, name="start")
    unit = unit_of(modules, backbone=backbone, space=space, name="start")
    for state in ("computed", "reused"):
        found, how = through_store(unit, tmp_path, backbone)
        assert how == state
        assert_same(found, direct)


THREE = [filled({"layer": (5, 4, 2)}, seed=seed, name=f"m{seed}") for seed in (1, 2, 3)]


def called(given: LoraModule, name: str, **card: Any) -> LoraModule:
    return replace(given, card=given.card.model_copy(update={"name": name, **card}))


def test_what_does_not_count() -> None:
    key = unit_of(THREE).key
    named = [called(given, f"n{index}", license="mit", notes="mine") for index, given in enumerate(THREE)]
    aside = filled({"other": (3, 3, 1)}, seed=9, name="aside")
    same = [
        unit_of(named, name="mine"),
        unit_of([aside, *THREE], (0.0, *WEIGHTS)),
        unit_of(THREE, Weights(modules=WEIGHTS)),
        unit_of(THREE, space="auto"),
        unit_of(THREE, seed=5),
        unit_of(THREE, backbone=tiny_backbone("gpt2")),
    ]
    assert {unit.key for unit in same} == {key}
    assert unit_of(THREE, space="ties", density=0.5).key == unit_of(THREE, space="ties", seed=3).key
    assert unit_of(THREE[:1], [1.0], space="dare", seed=1).backbone is None, "one module alone is itself"


def test_what_counts() -> None:
    backbone, changed = tiny_backbone("gpt2"), filled({"layer": (5, 4, 2)}, seed=7, name="m1")
    units = [
        unit_of(THREE),
        unit_of([changed, *THREE[1:]]),
        unit_of(THREE, (0.5, 0.2, 0.3)),
        unit_of(THREE, space="exact"),
        unit_of(THREE, space="svd"),
        unit_of(THREE, space="svd", rank=3),
        unit_of(THREE, space="ties"),
        unit_of(THREE, space="ties", density=0.2),
        unit_of(THREE, space="ties", backbone=backbone),
        unit_of(THREE, space="dare"),
        unit_of(THREE, space="dare", seed=1),
    ]
    assert len({unit.key for unit in units}) == len(units)


def test_the_card_names_the_modules_as_they_are_called_now(tmp_path: Path) -> None:
    through_store(unit_of(THREE), tmp_path)
    later = [
        called(given, name, license="mit", tensor_hash=name * 64) for given, name in zip(THREE, "abc", strict=True)
    ]
    aside = filled({"other": (3, 3, 1)}, seed=9, name="aside")
    found, state = through_store(unit_of([aside, *later], (0.0, *WEIGHTS), name="mine"), tmp_path)
    assert state == "reused"
    assert_same(found, merge([aside, *later], (0.0, *WEIGHTS), name="mine"))
    assert found.weights == (0.0, *WEIGHTS)
    assert [donor.name for donor in found.module.card.donors] == ["a", "b", "c"]
    assert (found.module.card.name, found.module.card.license) == ("mine", "mit")


def test_an_infinite_error_survives(tmp_path: Path) -> None:
    opposite = LoraModule.build(
        {path: factor._replace(b=-factor.b) for path, factor in THREE[0].factors.items()}, name="m0", backbone=None
    )
    pair = [THREE[0], opposite]
    found, _ = through_store(unit_of(pair, (0.5, 0.5), space="svd"), tmp_path)
    assert_same(found, merge(pair, (0.5, 0.5), space="svd"))


def test_what_cannot_be_merged_is_no_unit() -> None:
    with pytest.raises(MergeError, match="weights must be 3 numbers"):
        unit_of(THREE, (0.5, 0.6, 0.7))
    with pytest.raises(MergeError, match=r"layer\.a is 3×4 in 'm' and 2×4 in 'm1'; merge them"):
        unit_of([THREE[0], filled({"layer": (5, 4, 3)}, seed=1)], (0.5, 0.5))


def blended(task: Task, hub: Hub, backbone: Backbone, store: Path, **settings: Any) -> tuple[Any, list[str]]:
    """The start, and what was computed for it."""
    heard: list[Event] = []
    start = ensemble(task, hub, backbone, recipe=RECIPE, store=store, progress=heard.append, **settings)
    return start, [event.type for event in heard if isinstance(event, UnitEvent) and event.state == "computed"]


def test_an_ensemble_is_merged_once(task: Task, hub: Hub, llama: Backbone, tmp_path: Path) -> None:
    first, computed = blended(task, hub, llama, tmp_path, name="one")
    assert computed == ["score"] * 4 + ["merge"]
    again, computed = blended(task, hub, llama, tmp_path, name="two")
    assert computed == []
    assert (first.module.name, again.module.name) == ("one", "two")
    assert again.module.digest() == first.module.digest()
    modules, _ = load_modules(hub, llama)
    alone = replace(again, merged=merge(modules, first.merged.weights, name="two"))
    assert_same(again.merged, alone.made_for(task.card, llama.place).merged)
    other, computed = blended(task, hub, llama, tmp_path, blend=Blend(temperature=9.0))
    assert computed == ["merge"]
    assert other.module.digest() != first.module.digest()


def test_an_error_of_the_sum_is_raised_as_it_is(
    task: Task, llama: Backbone, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unlike(*_: object) -> Any:
        raise MergeError("these modules do not go together; leave one out")

    monkeypatch.setattr(MergePlan, "summed", unlike)
    with pytest.raises(MergeError, match=r"^these modules do not go together; leave one out$"):
        ensemble(task, [module(llama, "ada", seed=1)], llama, blend="uniform", recipe=RECIPE, store=tmp_path)


# ---- embeddings


def test_an_embedding_is_computed_once(hub: Hub, llama: Backbone, tmp_path: Path) -> None:
    modules, _ = load_modules(hub, llama)
    one = modules[0]
    first = embed(one, store=tmp_path)
    assert first.values.tolist() == tuned_parameters(one.load()).tolist()
    assert first.values.dtype == np.float64
    heard: list[Event] = []
    again = embed(renamed(one), store=tmp_path, progress=heard.append)
    assert np.array_equal(again.values, first.values)
    assert [event.state for event in heard if isinstance(event, UnitEvent)] == ["reused"]
    assert not np.array_equal(embed(modules[1], store=tmp_path).values, first.values)


def renamed(given: AnyModule) -> AnyModule:
    """Under another name, and not to be read."""
    return replace(given, card=given.card.model_copy(update={"name": "mine"}), source=Unread(given.digest()))


class Unread:
    def __init__(self, digest: str) -> None:
        self.digest = digest

    def read(self) -> Any:
        pytest.fail("read although its embedding is known")


def test_what_has_no_embedding_says_why(tmp_path: Path) -> None:
    headed = filled({"lm_head": (5, 4, 2)}, seed=1, name="headed")
    with pytest.raises(ModuleError, match=r"^'headed' tunes no numbered layer, so it has no task embedding"):
        embed(headed, store=tmp_path)


def test_what_a_unit_makes_is_embedded(task: Task, llama: Backbone, tmp_path: Path) -> None:
    tuning = TuneUnit.of(task, BackboneInput.of(llama), start=None, recipe=RECIPE, seed=0)
    unit = EmbedUnit(tuning)
    assert unit.label == "embedding what comes of tuning reviews on reviews, seed 0"
    found = run([unit, tuning], store=Store(tmp_path), loaders=backbone_loaders(llama))
    made: Module = tuning.tuned(found.of(tuning)).module
    assert unit.vector(found.of(unit)).values.tolist() == tuned_parameters(made).tolist()
