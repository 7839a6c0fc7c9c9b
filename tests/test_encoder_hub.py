"""A hub of modules with task heads: scored, ranked, blended and compared on encoders."""

import math
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from encoder_tasks import RECIPE, STYLE, a_task, examples
from encoders import CARDS, TASKS, encoder, in_peft, random_head, random_module
from headstart.backbones import EncoderBackbone, target_loss
from headstart.blending import RULES, Blend, merge
from headstart.blending.ensemble import ensemble
from headstart.comparing.compare import compare
from headstart.comparing.running import UNTUNED_HEAD
from headstart.errors import HubError, MergeError, SettingError, TaskError
from headstart.evaluating.evaluate_many import evaluate_many
from headstart.hub import Hub
from headstart.indicators import INDICATORS
from headstart.indicators.engine import score
from headstart.kinds import Module, fresh_module, load_module, save_module, stack_of
from headstart.ranking.rank import fits, rank
from headstart.records import TaskCard
from headstart.reports.verdict import verdict
from headstart.tasks import head_of
from headstart.tuning import unit
from headstart.tuning.lane import Lane
from headstart.tuning.lanes import tune_lanes
from headstart.tuning.tune import tune
from naive import assert_same_parameters


@pytest.fixture
def bert() -> EncoderBackbone:
    return encoder("bert")


@pytest.fixture(params=["bert", "roberta", "distilbert"])
def backbone(request: pytest.FixtureRequest) -> EncoderBackbone:
    return encoder(request.param)


# Scoring


def reference(backbone: EncoderBackbone, task: str) -> Module:
    return random_module(backbone, head_of(a_task(task).card), seed=50, name="reference")


@pytest.mark.parametrize("task", TASKS)
def test_all_modules_answer_through_the_reference_s_head(backbone: EncoderBackbone, task: str) -> None:
    data, like = a_task(task), reference(backbone, task)
    cards = [CARDS["classification"], None, CARDS["span"], CARDS["regression"]]
    modules = [random_module(backbone, card, seed=seed) for seed, card in enumerate(cards)]
    names = ["loss", "el2n", "cosine", "kl", "grand", "tupate"]
    found = score(modules, data.dev, backbone, indicators=names, reference=like, text_format=STYLE)
    bare = score(
        [m.with_head(None) for m in modules], data.dev, backbone, indicators=names, reference=like, text_format=STYLE
    )
    assert repr(found) == repr(bare), "a module's own head plays no part"
    shared = [module.with_head(like.head) for module in modules]
    wanted = evaluate_many(shared, data.dev, backbone, metric=data.card.metric, text_format=STYLE)
    assert found.values["loss"] == pytest.approx([-result.loss for result in wanted], rel=2e-6, abs=1e-4)
    assert found.tokens == len(data.dev) * (2 if task == "span" else 1)
    missing = {name for name in names if INDICATORS[name].distribution} if task == "regression" else set()
    assert missing == ({"el2n", "cosine", "kl"} if task == "regression" else set())
    for name in names:
        assert all(math.isnan(value) is (name in missing) for value in found.values[name]), name
        assert (name in found.reasons) is (name in missing)
    for name in missing:
        assert set(found.reasons[name].values()) == {
            "it compares distributions over answers, and a regression answers with one number"
        }


@pytest.mark.parametrize("task", TASKS)
def test_grand_is_of_the_module_s_parameters_alone(bert: EncoderBackbone, task: str) -> None:
    data, like = a_task(task), reference(bert, task)
    module = random_module(bert, seed=3)
    (found,) = score(
        [module], data.dev, bert, indicators=["grand"], reduction="sum", reference=like, text_format=STYLE
    ).values["grand"]
    stack = stack_of([module.with_head(like.head)], bert, dtype=torch.float32)
    rows = bert.encode([(row.input, row.target) for row in data.dev], STYLE, head=like.card.head)
    with stack.attach(bert):
        for value in stack.parameters.values():
            value.requires_grad_(True)
        batch = bert.batch(rows, range(len(rows)))
        target_loss(bert.target_logits(batch), batch.gold).sum().backward()
    squares = {name: value.grad.double().square().sum().item() for name, value in stack.parameters.items()}  # type: ignore[union-attr]
    assert any(name.startswith("head.") and square > 0 for name, square in squares.items())
    wanted = -math.sqrt(sum(square for name, square in squares.items() if not name.startswith("head.")))
    assert found == pytest.approx(wanted, rel=1e-4)


def test_variants_that_run_through_peft_are_scored_with_the_reference_s_head(
    bert: EncoderBackbone, tmp_path: Path
) -> None:
    from peft import LoraConfig

    data, like = a_task("classification"), reference(bert, "classification")
    config = LoraConfig(r=2, target_modules=["query"], task_type="SEQ_CLS", use_dora=True)
    in_peft(bert, random_head(bert, CARDS["classification"]), config).save_pretrained(tmp_path / "dora")
    modules = [load_module(tmp_path / "dora"), random_module(bert, seed=1)]
    found = score(modules, data.dev, bert, indicators=["loss", "grand"], reference=like, text_format=STYLE)
    wanted = evaluate_many([m.with_head(like.head) for m in modules], data.dev, bert, metric="ACC", text_format=STYLE)
    assert found.values["loss"] == pytest.approx([-result.loss for result in wanted], rel=2e-6, abs=1e-4)
    assert all(value < 0 for value in found.values["grand"])


def test_comparing_parameters_needs_no_head_and_reads_no_text(
    bert: EncoderBackbone, monkeypatch: pytest.MonkeyPatch
) -> None:
    modules = [random_module(bert, CARDS["span"], seed=seed) for seed in range(3)]
    monkeypatch.setattr(EncoderBackbone, "encode", lambda *_, **__: pytest.fail("a text was read"))
    found = score(modules, examples("span"), bert, indicators=["tupate"], reference=modules[1].with_head(None))
    assert found.values["tupate"][1] == pytest.approx(1.0)
    assert found.tokens == 0


def test_without_a_tuned_head_there_is_no_score(bert: EncoderBackbone) -> None:
    for like in (None, random_module(bert)):
        with pytest.raises(
            SettingError, match="on the encoder tiny-bert modules answer through a task head that was tun"
        ):
            score([random_module(bert)], examples("span"), bert, indicators=["loss"], reference=like)


# The whole road


def hub_of(backbone: EncoderBackbone) -> list[Module]:
    """Modules of tasks of every sort, with a head and without."""
    cards = [CARDS["classification"], CARDS["span"], CARDS["regression"], None]
    return [random_module(backbone, card, seed=seed, name=name) for seed, (card, name) in
            enumerate(zip(cards, ("ada", "bob", "cyd", "dan"), strict=True))]  # fmt: skip


@pytest.mark.parametrize("task", TASKS)
def test_rank_tunes_a_reference_for_its_head(bert: EncoderBackbone, task: str) -> None:
    data = a_task(task)
    ranking = rank(data, hub_of(bert), bert, indicators=("loss",), recipe=RECIPE)
    made = ranking.reference
    assert made is not None
    assert made.card.head is not None
    assert made.card.head.answers_as(head_of(data.card))
    again = rank(data, hub_of(bert), bert, indicators=("loss",), recipe=RECIPE, reference=made)
    assert again.scores == ranking.scores
    assert set(ranking.scores.names) == {"ada", "bob", "cyd", "dan"}


@pytest.mark.parametrize("rule", ["softmax", "uniform", "best_single", "top_k"])
def test_a_start_has_no_head(bert: EncoderBackbone, rule: str) -> None:
    data = a_task("classification")
    top = {"top_k": 2} if "top_k" in RULES[rule].reads and rule == "top_k" else {}
    start = ensemble(data, hub_of(bert), bert, blend=Blend(rule=rule, **top), recipe=RECIPE)
    assert (start.module.head, start.module.card.head) == (None, None)
    tuned = tune(data, bert, start=start.module, recipe=RECIPE)
    assert tuned.module.card.head is not None
    assert tuned.module.card.head.labels == data.card.labels
    assert {donor.name for donor in tuned.module.card.donors} <= {"ada", "bob", "cyd", "dan"}


def test_compare_before_tuning_there_is_nothing_to_compare(bert: EncoderBackbone) -> None:
    data = a_task("classification")
    found = compare(data, hub_of(bert), bert, seeds=2, shots=2, blend=Blend(temperature=0.5), recipe=RECIPE)
    zero, tuned = (found.scores[found.scores["stage"] == stage] for stage in ("zero-shot", "tuned"))
    assert zero["score"].isna().all()
    assert set(zero["reason"]) == {UNTUNED_HEAD}
    assert tuned["score"].between(0, 1).all()
    assert set(tuned["reason"]) == {""}
    assert found.settings["decoding"] == "head"
    text = verdict(found)
    assert text.count(UNTUNED_HEAD) == 1
    assert f"scratch could not be compared (no seed has both scores; seeds 0, 1: {UNTUNED_HEAD})." in text
    assert "above scratch after tuning" in text


def test_the_methods_of_a_seed_share_one_fresh_head(bert: EncoderBackbone, monkeypatch: pytest.MonkeyPatch) -> None:
    tuned: list[Lane] = []

    def watched(lanes: Iterable[Lane], *args: Any, **settings: Any) -> Any:
        tuned.extend(lanes := list(lanes))
        return tune_lanes(lanes, *args, **settings)

    monkeypatch.setattr(unit, "tune_lanes", watched)
    compare(a_task("regression"), hub_of(bert), bert, seeds=2, shots=1, blend=Blend(indicator="loss"), recipe=RECIPE)
    # five methods and the reference module
    assert sorted(lane.seed for lane in tuned) == [0] * 6 + [1] * 6
    assert all(lane.start is not None and lane.start.head is None for lane in tuned)


def test_an_indicator_without_values_is_refused_before_any_tuning(
    bert: EncoderBackbone, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(unit, "tune_lanes", lambda *_, **__: pytest.fail("it tuned"))
    message = "'cosine' has no value for 'reviews': it compares distributions .* use one of: loss, .*grand"
    for run in (compare, ensemble):
        with pytest.raises(SettingError, match=message):
            run(a_task("regression"), hub_of(bert), bert)
    with pytest.raises(
        SettingError, match="tiny-bert is an encoder and answers through its head; leave decoding at auto"
    ):
        compare(a_task("classification"), hub_of(bert), bert, decoding="options")
    with pytest.raises(TaskError, match="has its own options, which no head of an encoder chooses among"):
        ensemble(replace(a_task("span"), card=TaskCard(name="q", options="field")), hub_of(bert), bert)


def test_a_hub_of_tuned_modules_is_evaluated_with_their_heads(bert: EncoderBackbone, tmp_path: Path) -> None:
    data = a_task("classification")
    tuned = [
        tune(data, bert, recipe=RECIPE.change(rank=rank_), seed=rank_, name=f"m{rank_}").module for rank_ in (1, 2)
    ]
    for module in tuned:
        save_module(module, tmp_path / module.name)
    loaded = [load_module(tmp_path / module.name) for module in tuned]
    found = evaluate_many(loaded, data.test, bert, metric="ACC", text_format=STYLE)
    assert [r.predictions for r in found] == [
        evaluate_many([module], data.test, bert, metric="ACC", text_format=STYLE)[0].predictions for module in tuned
    ]
    for one, other in zip(loaded, tuned, strict=True):
        assert_same_parameters(one, other)


@pytest.mark.parametrize("first", ["adapter", "ia3"])
def test_kinds_that_show_other_widths_of_one_layer_share_a_hub(
    bert: EncoderBackbone, first: str, tmp_path: Path
) -> None:
    # An adapter shows the width behind `output.dense`, (IA)³ the one before it.
    kinds = [first, *({"adapter", "ia3"} - {first})]
    for kind in kinds:
        settings = {"placement": "houlsby"} if kind == "adapter" else {}
        save_module(fresh_module(kind, bert, settings, name=kind, seed=0), tmp_path / kind)
    hub = Hub.create(tmp_path / "hub")
    admitted = hub.add_all([tmp_path / kind for kind in kinds], check=fits(bert))
    assert [admission.reason for admission in admitted] == [None, None]
    assert hub.of_kind("ia3").names() == ["ia3"]
    assert [card.kind for card in hub.of_kind("adapter").cards()] == ["adapter"]
    assert hub.names() == ["adapter", "ia3"], "the hub itself is as before"
    with pytest.raises(HubError, match=r"no module of kind 'lora' \(it has: 1 adapter, 1 ia3\); choose one of these"):
        hub.of_kind("lora")
    modules = [load_module(hub.read(name)) for name in hub.names()]
    with pytest.raises(MergeError, match=r"of several kinds \(1 adapter, 1 ia3\); merge modules of one kind"):
        merge(modules, [0.5, 0.5])
