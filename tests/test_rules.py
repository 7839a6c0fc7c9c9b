"""Merge rules: their weights by hand, what they refuse, and that those without scores run no scoring pass."""

import math
from collections.abc import Sequence
from dataclasses import replace
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from headstart import registry
from headstart.backbones import Backbone
from headstart.blending import RULES, Blend, Candidate, Request, Rule, merge
from headstart.blending import ensemble as blending
from headstart.blending.ensemble import blend_note, ensemble, weight_table
from headstart.blending.rules.uniform import Uniform
from headstart.comparing.compare import compare
from headstart.errors import MergeError, SettingError
from headstart.hub import Hub
from headstart.kinds import PeftModule, fresh_module
from headstart.ranking import rank as rank_module
from headstart.ranking import scorer
from headstart.ranking.rank import rank
from headstart.records import ModuleCard
from headstart.registry import Registry
from headstart.tasks import Task
from small_hub import RECIPE, filled, module, write_hub, write_task

HUB = (
    Candidate("ada", "reviews", 0.3),
    Candidate("bob", "nli", 0.7),
    Candidate("cyd", "reviews", math.nan),
    Candidate("dan", "", 0.7),
)
"""bob and dan have the best score; cyd has none."""


def weights_of(rule: str, candidates: Sequence[Candidate], blend: Blend, family: str = "") -> tuple[float, ...]:
    return RULES[rule].weigh(Request(blend, candidates, family)).weights.modules


@pytest.mark.parametrize(
    ("rule", "blend", "family", "expected"),
    [
        # e^(0.3/0.4) : e^(0.7/0.4) = 1 : e, so ada has 1/(1 + 2e)
        ("softmax", Blend(temperature=0.4), "", [0.155362, 0.422319, 0, 0.422319]),
        ("softmax", Blend(temperature=0.4, top_k=2), "", [0, 0.5, 0, 0.5]),
        ("uniform", Blend(), "", [0.25, 0.25, 0.25, 0.25]),
        ("top_k", Blend(top_k=1), "", [0, 1, 0, 0]),
        ("top_k", Blend(top_k=2), "", [0, 0.5, 0, 0.5]),
        ("top_k", Blend(top_k=9), "", [1 / 3, 1 / 3, 0, 1 / 3]),
        ("best_single", Blend(), "", [0, 1, 0, 0]),
        ("manual", Blend(), "reviews", [0.5, 0, 0.5, 0]),
        ("manual", Blend(members=("dan", "bob")), "reviews", [0, 0.5, 0, 0.5]),
    ],
)  # fmt: skip
def test_weights_by_hand(rule: str, blend: Blend, family: str, expected: Sequence[float]) -> None:
    RULES[rule].check(blend, family=family)
    assert weights_of(rule, HUB, blend, family) == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize(
    ("rule", "blend", "message"),
    [
        ("softmax", Blend(temperature=1.0, effective=2), "temperature 1 and effective 2 both say how concentrated the"),
        ("softmax", Blend(effective=0.5), "effective 0.5 must be at least 1 module; for the best module alone use"),
        ("softmax", Blend(effective=math.nan), "effective nan must be at least 1"),
        ("softmax", Blend(effective=3, top_k=2), "effective 3 is more than the 2 modules of top_k; ask for at most 2"),
        ("softmax", Blend(top_k=0), "top_k 0 must be at least 1"),
        ("top_k", Blend(top_k=2, effective=2), "effective 2.0 is not for rule 'top_k'; leave it out"),
        ("softmax", Blend(temperature=0.0), r"temperature 0.0 must be above 0"),
        ("softmax", Blend(temperature=1.0, members=("ada", "bob")), "members ada, bob is not for rule 'softmax'"),
        ("uniform", Blend(temperature=1.0), "temperature 1.0 is not for rule 'uniform'; leave it out, or choose"),
        ("uniform", Blend(top_k=2), "top_k 2 is not for rule 'uniform'"),
        ("best_single", Blend(top_k=2), "top_k 2 is not for rule 'best_single'"),
        ("top_k", Blend(), "rule 'top_k' needs top_k, the number of modules to average; give it"),
        ("top_k", Blend(top_k=0), "top_k 0 must be at least 1"),
        ("manual", Blend(), "rule 'manual' has no members: the task states no family; name the members"),
    ],
)  # fmt: skip
def test_options_that_a_rule_cannot_use(rule: str, blend: Blend, message: str) -> None:
    with pytest.raises(SettingError, match=message):
        RULES[rule].check(blend)


@pytest.mark.parametrize(
    ("blend", "family", "message"),
    [
        (Blend(members=("ada", "eve")), "", "'eve' is no module that can take part; correct"),
        (Blend(), "qa", r"no module is of the task's family 'qa' \(their families: nli, reviews\); name"),
    ],
)  # fmt: skip
def test_groups_that_are_not_there(blend: Blend, family: str, message: str) -> None:
    with pytest.raises(MergeError, match=message):
        weights_of("manual", HUB, blend, family)


@pytest.mark.parametrize("rule", ["softmax", "top_k", "best_single"])
def test_without_any_score_there_is_nothing_to_weigh(rule: str) -> None:
    with pytest.raises(MergeError, match="no module has a score to weigh by; use another indicator"):
        weights_of(rule, [Candidate("ada")], Blend(temperature=1.0, top_k=1))


def test_what_cannot_be_merged_is_in_no_family_and_no_average() -> None:
    hub = [*HUB, Candidate("dora", "reviews", merges=False)]
    assert weights_of("uniform", hub, Blend())[-1] == 0
    assert weights_of("manual", hub, Blend(), "reviews")[-1] == 0
    with pytest.raises(MergeError, match=r"no module to merge"):
        weights_of("uniform", hub[-1:], Blend())
    with pytest.raises(MergeError, match=r"their families: none stated"):
        weights_of("manual", hub[-1:], Blend(), "reviews")


@given(scores=st.lists(st.floats(-5, 5) | st.just(math.nan), min_size=1, max_size=9), data=st.data())
def test_weights_sum_to_1_and_follow_the_modules(scores: list[float], data: st.DataObject) -> None:
    hub = [Candidate(str(place), "ab"[place % 2], score) for place, score in enumerate(scores)]
    order = data.draw(st.permutations(range(len(hub))))
    known = [score for score in scores if not math.isnan(score)]
    for name, rule in RULES.items():
        if (
            "loss" in rule.needs
            or ("scores" in rule.needs and not known)
            or (name != "softmax" and len(set(known)) < len(known))
        ):
            continue  # of equal scores the earlier stays
        blend = Blend(top_k=2 if name == "top_k" else None)
        weights = weights_of(name, hub, blend, "a")
        assert math.fsum(weights) == pytest.approx(1)
        assert min(weights) >= 0
        again = weights_of(name, [hub[place] for place in order], blend, "a")
        assert again == pytest.approx([weights[i] for i in order])


def test_a_plugin_s_rule_appears_beside_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    class Point:
        name = "theirs"

        def load(self) -> Rule:
            return Uniform()

    asked: list[str] = []

    def points_of(group: str) -> list[EntryPoint]:
        asked.append(group)
        return [Point()]  # type: ignore[list-item]

    monkeypatch.setattr(registry, "points_of", points_of)
    fresh: Registry[Rule] = Registry(RULES.family, group=RULES.group)
    assert list(fresh) == ["theirs"]
    assert asked == ["headstart.rules"]


# The main job


@pytest.fixture(scope="module")
def backbone(tiny_llama: Path) -> Backbone:
    return Backbone.load(tiny_llama, device="cpu", dtype="float32")


@pytest.fixture(scope="module")
def hub(backbone: Backbone, tmp_path_factory: pytest.TempPathFactory) -> Hub:
    return write_hub(tmp_path_factory.mktemp("room") / "hub", backbone)


@pytest.fixture(scope="module")
def task(tmp_path_factory: pytest.TempPathFactory) -> Task:
    return Task.load(write_task(tmp_path_factory.mktemp("task") / "task"))


def of_family(task: Task, family: str) -> Task:
    return replace(task, card=task.card.model_copy(update={"family": family}))


@pytest.mark.parametrize(
    ("settings", "family", "names"),
    [
        ({"rule": "uniform"}, "", ["ada", "bob", "cyd", "dan"]),
        ({"rule": "manual"}, "reviews", ["ada", "bob"]),
        ({"rule": "manual", "members": ["dan", "ada", "dan"]}, "reviews", ["ada", "dan"]),
    ],
)
def test_rules_without_scores_run_no_scoring_pass(
    settings: dict[str, Any],
    family: str,
    names: list[str],
    task: Task,
    hub: Hub,
    backbone: Backbone,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(scorer, "run", lambda *_, **__: pytest.fail("it scored"))
    bare = replace(of_family(task, family), splits={"train": task.train})  # and so they need no dev split
    start = ensemble(bare, hub, backbone, blend=Blend(**settings))
    assert [donor.name for donor in start.module.card.donors] == names
    assert {donor.weight for donor in start.module.card.donors} == {1 / len(names)}
    assert (start.rule, start.indicator, start.temperature) == (settings["rule"], None, None)
    chosen = [found for found in start.ranking.modules if found.name in names]
    expected = merge(chosen, [1 / len(names)] * len(names)).module
    assert all(torch.equal(value, expected.parameters()[name]) for name, value in start.module.parameters().items())
    frame = weight_table(start)
    assert list(frame.columns) == ["module", "task", "family", "license", "weight"]
    assert sorted(frame["module"][: len(names)]) == names
    assert blend_note(start).startswith(f"{settings['rule']}: effective number of modules {len(names)}.00 of 4, space")


def test_rules_with_scores(task: Task, hub: Hub, backbone: Backbone) -> None:
    ranking = rank(task, hub, backbone, indicators=("loss",), recipe=RECIPE)
    order = sorted(range(4), key=lambda place: -ranking.scores.values["loss"][place])
    single = ensemble(task, hub, backbone, blend="best_single:indicator=loss", ranking=ranking)
    assert single.merged.weights == tuple(float(place == order[0]) for place in range(4))
    assert single.merged.error == 0.0
    assert blend_note(single).startswith("best_single by loss: effective number of modules 1.00 of 4")
    both = ensemble(task, hub, backbone, blend="top_k:top_k=2,indicator=loss", ranking=ranking)
    assert both.merged.weights == tuple(0.5 if place in order[:2] else 0.0 for place in range(4))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"rule": "medain"},
            "unknown merge rule 'medain'; choose one of: softmax, uniform, top_k, best_single, manual",
        ),
        ({"rule": "manual"}, "rule 'manual' has no members: the task states no family"),
        ({"rule": "top_k"}, "rule 'top_k' needs top_k"),
        ({"rule": "uniform", "temperature": 0.5}, "temperature 0.5 is not for rule 'uniform'"),
        ({"members": ["ada"]}, "members ada is not for rule 'softmax'"),
    ],
)
def test_what_does_not_go_together_is_known_before_any_work(
    settings: dict[str, Any], message: str, task: Task, backbone: Backbone, monkeypatch: pytest.MonkeyPatch
) -> None:
    for home in (rank_module, blending):
        monkeypatch.setattr(home, "load_modules", lambda *_, **__: pytest.fail("it began to work"))
    with pytest.raises(SettingError, match=message):
        ensemble(task, [filled({"x": (2, 2, 1)}, seed=0)], backbone, blend=Blend(**settings))


def test_a_variant_in_a_named_group_is_refused_by_name(task: Task, backbone: Backbone) -> None:
    class Dora(PeftModule):
        def check(self, backbone: Backbone) -> None:
            pass

    plain = module(backbone, "ada", seed=1)
    card = ModuleCard(name="dora", kind="lora", variant="DoRA", parameters=1, tensor_hash="")
    dora = Dora(card, {}, {"x": torch.ones(1)}, {}, "DoRA")
    start = ensemble(task, [plain, dora], backbone, blend="uniform")
    assert start.merged.weights == (1.0, 0.0)
    assert [(left.name, left.reason) for left in start.left_out] == [
        ("dora", "a LoRA variant (DoRA), which can be ranked but not merged")
    ]
    with pytest.raises(MergeError, match=r"'dora' is a LoRA variant \(DoRA\) whose parameters have no exact merge"):
        ensemble(task, [plain, dora], backbone, blend="manual:members=ada,dora")


def test_a_comparison_with_a_rule(task: Task, hub: Hub, backbone: Backbone, monkeypatch: pytest.MonkeyPatch) -> None:
    blend = Blend(rule="manual", members=("ada", "bob"))
    found = compare(task, hub, backbone, seeds=1, shots=3, recipe=RECIPE, blend=blend)
    assert (found.settings["rule"], found.settings["members"], found.settings["temperature"]) == (
        "manual", ["ada", "bob"], None
    )  # fmt: skip
    weights = dict(zip(found.ranking["module"], found.ranking["weight"], strict=True))
    assert weights == {"ada": 0.5, "bob": 0.5, "cyd": 0.0, "dan": 0.0}
    assert found.notes[0].startswith("seed 0: manual: effective number of modules 2.00 of 4")
    monkeypatch.setattr(scorer, "run", lambda *_, **__: pytest.fail("it scored"))
    with pytest.raises(MergeError, match="'eve' is no module that can take part"):
        compare(task, hub, backbone, seeds=1, shots=3, recipe=RECIPE, blend=Blend(rule="manual", members=("eve",)))


def test_several_kinds_are_refused_before_any_scoring(
    task: Task, backbone: Backbone, monkeypatch: pytest.MonkeyPatch
) -> None:
    modules = [module(backbone, "ada", seed=1), fresh_module("ia3", backbone, {}, name="bob", seed=0)]
    best = ensemble(task, modules, backbone, blend="best_single:indicator=loss")
    assert best.merged.weights in ((1.0, 0.0), (0.0, 1.0)), "one module alone needs no other of its kind"
    monkeypatch.setattr(scorer, "run", lambda *_, **__: pytest.fail("it scored"))
    message = r"the modules are of several kinds \(1 lora, 1 ia3\); merge modules of one kind, which Hub.of_kind and"
    for blend in (None, "uniform", "top_k:top_k=2"):
        with pytest.raises(MergeError, match=message):
            ensemble(task, modules, backbone, blend=blend)
    with pytest.raises(MergeError, match=message):
        compare(task, modules, backbone, seeds=1, shots=3, recipe=RECIPE)
    assert RULES["softmax"].most(Blend(temperature=1.0)) is None
    assert RULES["softmax"].most(Blend(temperature=1.0, top_k=1)) == 1
