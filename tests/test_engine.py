"""The scoring pass against float64 references computed one module and one example at a time."""

import math
from collections.abc import Sequence
from dataclasses import replace

import pytest
import torch

from headstart.backbones import Backbone
from headstart.embeddings import tuned_parameters
from headstart.errors import SettingError, TaskError
from headstart.events import Event, Progress
from headstart.indicators.engine import score
from headstart.indicators.table import Scores
from headstart.kinds import LoraModule
from headstart.records import TaskCard
from headstart.tasks import Example, Task
from headstart.tuning.recipes import RECIPES
from headstart.tuning.tune import tune
from naive import BACKBONES, REVIEWS, Merged, assert_untouched, encoded, load, photograph, random_lora

BY_TOKEN = ("loss", "cosine", "el2n", "kl")
ALL = (*BY_TOKEN, "grand")


@pytest.fixture(scope="module", params=BACKBONES)
def backbone(request: pytest.FixtureRequest) -> Backbone:
    return load(request.getfixturevalue(request.param))


@pytest.fixture(scope="module")
def modules(llama: Backbone) -> list[LoraModule]:
    """Seven modules of two shapes, mixed."""
    return [random_lora(llama, seed=seed, rank=2 + seed % 2, alpha=seed + 1.0) for seed in range(7)]


def naive_scores(backbone: Backbone, module: LoraModule, reference: LoraModule) -> dict[str, float]:
    """Sums over all target tokens, in float64, from merged weights; grand by autograd through B·A."""
    items = encoded(backbone)
    merged, other = Merged(backbone, module), Merged(backbone, reference)
    sums = dict.fromkeys(BY_TOKEN, 0.0)
    for item in items:
        p = merged.logits(item).softmax(-1).detach()
        wanted = other.logits(item).softmax(-1).detach()
        for row, teacher, gold in zip(p, wanted, item.target, strict=True):
            v = torch.zeros_like(row)
            v[gold] = 1.0
            sums["loss"] += row[gold].log().item()
            sums["cosine"] += float(row @ v / row.norm() / v.norm())
            sums["el2n"] -= float((row - v).norm())
            sums["kl"] -= float((teacher * (teacher.log() - row.log())).sum())
    merged.cross_entropy(items).backward()
    squared = sum(value.grad.pow(2).sum().item() for value in merged.leaves.values() if value.grad is not None)
    return {**sums, "grand": -math.sqrt(squared)}


def test_every_indicator_against_float64(backbone: Backbone) -> None:
    several = [random_lora(backbone, seed=seed) for seed in (1, 2, 3)]
    reference = random_lora(backbone, seed=9)
    before = photograph(backbone)
    found = score(several, REVIEWS, backbone, indicators=ALL, reference=reference, reduction="sum")
    assert_untouched(backbone, before)
    for index, module in enumerate(several):
        for name, wanted in naive_scores(backbone, module, reference).items():
            assert found.values[name][index] == pytest.approx(wanted, rel=2e-4, abs=1e-3), name
    assert all(len(set(found.values[name])) == 3 for name in ALL), "the modules must differ for this to say anything"


def test_the_gradient_against_finite_differences(llama: Backbone) -> None:
    # One direction of one parameter: (L(θ + h) − L(θ − h)) / 2h, in float64.
    module, items = random_lora(llama, seed=1), encoded(llama)
    merged = Merged(llama, module)
    merged.cross_entropy(items).backward()
    name = min(merged.leaves)
    leaf, h = merged.leaves[name], 1e-3
    with torch.no_grad():
        losses = []
        for sign in (1, -1):
            leaf[0, 0] += sign * h
            losses.append(merged.cross_entropy(items).item())
            leaf[0, 0] -= sign * h
    assert leaf.grad is not None
    assert (losses[0] - losses[1]) / (2 * h) == pytest.approx(leaf.grad[0, 0].item(), rel=1e-2, abs=1e-3)


def test_the_sum_is_the_mean_times_the_tokens(llama: Backbone, modules: list[LoraModule]) -> None:
    mean, total = (
        score(modules, REVIEWS, llama, indicators=ALL, reference=modules[0], reduction=reduction)
        for reduction in ("mean", "sum")
    )
    assert mean.tokens == total.tokens == sum(len(item.target) for item in encoded(llama))
    assert (mean.examples, mean.reduction, total.reduction) == (len(REVIEWS), "mean", "sum")
    assert mean.names == tuple(module.name for module in modules)
    for name in ALL:
        scaled = [value * mean.tokens for value in mean.values[name]]
        assert total.values[name] == pytest.approx(scaled, rel=1e-5)


def assert_equal_scores(found: Scores, expected: Scores, order: Sequence[int] | None = None) -> None:
    """The same values, module `order[i]` of `expected` at place i of `found`."""
    for name, values in expected.values.items():
        wanted = [values[index] for index in order] if order is not None else list(values)
        assert list(found.values[name]) == pytest.approx(wanted, rel=1e-4, abs=1e-5), name


def test_unequal_scores_are_seen(llama: Backbone, modules: list[LoraModule]) -> None:
    found = score(modules, REVIEWS, llama, indicators=["loss"])
    assert_equal_scores(found, found)
    with pytest.raises(AssertionError):
        assert_equal_scores(found, found, order=[1, 0, 2, 3, 4, 5, 6])


def test_neither_order_nor_budget_nor_company_matters(llama: Backbone, modules: list[LoraModule]) -> None:
    def run(chosen: Sequence[LoraModule], examples: Sequence[Example] = REVIEWS, budget: int | None = None) -> Scores:
        return score(chosen, examples, llama, indicators=ALL, reference=modules[3], budget=budget)

    expected = run(modules)
    assert_equal_scores(run(modules, REVIEWS[::-1]), expected)
    for budget in (1, 20, 45, 200, 10_000):
        assert_equal_scores(run(modules, budget=budget), expected)
    order = [6, 2, 0, 5, 1, 4, 3]
    assert_equal_scores(run([modules[index] for index in order]), expected, order)
    for index in (0, 5):
        assert_equal_scores(run([modules[index]]), expected, [index])
    copies = [replace(modules[1], card=modules[1].card.model_copy(update={"name": name})) for name in "abc"]
    assert_equal_scores(run(copies), expected, [1, 1, 1])


def test_one_pass_is_as_good_as_separate_passes(llama: Backbone, modules: list[LoraModule]) -> None:
    together = score(modules, REVIEWS, llama, indicators=ALL, reference=modules[3])
    for name in ALL:
        alone = score(modules, REVIEWS, llama, indicators=[name], reference=modules[3])
        assert list(alone.values) == [name]
        assert alone.values[name] == pytest.approx(together.values[name], rel=1e-5, abs=1e-6)


def test_a_module_tells_itself_from_the_reference(llama: Backbone, modules: list[LoraModule]) -> None:
    # KL(p ‖ p) = 0, and the cosine of an embedding with itself is 1.
    found = score(modules, REVIEWS, llama, indicators=["kl", "tupate"], reference=modules[3])
    assert found.values["kl"][3] == pytest.approx(0.0, abs=1e-6)
    assert found.best("kl") == 3
    assert found.values["tupate"][3] == pytest.approx(1.0)
    assert found.best("tupate") == 3


def test_the_embedding_is_the_mean_over_layers(llama: Backbone, modules: list[LoraModule]) -> None:
    (vectors,) = modules[0].layer_vectors()
    assert vectors.shape == (2, sum(value.numel() for value in modules[0].parameters().values()) // 2)
    expected = [(first + second) / 2 for first, second in zip(*vectors.double().tolist(), strict=True)]
    assert tuned_parameters(modules[0]).tolist() == pytest.approx(expected)


def test_unlike_shapes_have_no_cosine_and_say_so(llama: Backbone, modules: list[LoraModule]) -> None:
    found = score(modules, REVIEWS, llama, indicators=["tupate"], reference=modules[0])
    for index, module in enumerate(modules):
        same = module.stack_key == modules[0].stack_key
        assert math.isnan(found.values["tupate"][index]) is not same
        assert (module.name in found.reasons.get("tupate", {})) is not same
    assert "the reference module's" in found.reasons["tupate"][modules[1].name]
    with pytest.raises(SettingError, match="no module has a value of 'tupate'; use another indicator"):
        score(modules[1:2], REVIEWS, llama, indicators=["tupate"], reference=modules[0]).best("tupate")


def test_a_broken_module_has_no_value_and_says_so(llama: Backbone, modules: list[LoraModule]) -> None:
    parameters = {name: value * 1e30 for name, value in modules[1].parameters().items()}
    broken = replace(modules[1].with_parameters(parameters), card=modules[1].card.model_copy(update={"name": "broken"}))
    found = score([modules[3], broken], REVIEWS, llama, indicators=["loss", "cosine", "grand"])
    for name in ("loss", "cosine", "grand"):
        assert math.isfinite(found.values[name][0])
        assert math.isnan(found.values[name][1])
        assert found.reasons[name] == {"broken": "its predictions are not finite numbers"}
        assert found.best(name) == 0


def test_of_equals_the_first_is_best() -> None:
    assert Scores(("a", "b", "c"), {"loss": (-2.0, -1.0, -1.0)}, "mean", 1, 1).best("loss") == 1


def test_a_better_trained_module_scores_higher_on_its_own_task(llama: Backbone) -> None:
    task = Task(TaskCard(name="reviews", metric="ACC"), {"train": REVIEWS, "dev": REVIEWS})
    recipe = RECIPES["quick"].change(lr=1e-2, max_steps=24, eval_every=24, select="loss")
    short = tune(task, llama, recipe=recipe.change(max_steps=3, eval_every=3, warmup_steps=0), name="short").module
    long = tune(task, llama, recipe=recipe, name="long").module
    found = score([short, long], REVIEWS, llama, indicators=["loss", "cosine", "el2n", "kl"], reference=long)
    for name, (worse, better) in found.values.items():
        assert better > worse, name
        assert found.best(name) == 1


def test_progress_counts_every_example_of_every_module_once(llama: Backbone, modules: list[LoraModule]) -> None:
    seen: list[Event] = []
    score(modules, REVIEWS, llama, indicators=["loss"], budget=60, progress=seen.append)
    what = f"scoring {len(modules)} modules × {len(REVIEWS)} examples"
    counts = [event.done for event in seen if isinstance(event, Progress)]
    assert len(counts) == len(seen) > 4
    assert counts == sorted(set(counts))
    assert seen[-1] == Progress(what, len(modules) * len(REVIEWS), len(modules) * len(REVIEWS))


def test_weights_alone_need_no_forward_pass(
    llama: Backbone, modules: list[LoraModule], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Backbone, "target_logits", lambda *_, **__: pytest.fail("it ran the backbone"))
    assert score(modules, REVIEWS, llama, indicators=["tupate"], reference=modules[0]).best("tupate") == 0


def test_a_single_text_is_one_indicator(llama: Backbone, modules: list[LoraModule]) -> None:
    alone = score(modules, REVIEWS, llama, indicators="loss")
    assert alone == score(modules, REVIEWS, llama, indicators=["loss"])


def test_no_modules_no_values(llama: Backbone) -> None:
    assert score([], REVIEWS, llama, indicators=["loss"]).values == {"loss": ()}


def test_the_backbone_survives_a_failure(llama: Backbone, modules: list[LoraModule]) -> None:
    before = photograph(llama)

    def stop(event: Event) -> None:
        raise KeyboardInterrupt

    for name in ("loss", "grand"):
        with pytest.raises(KeyboardInterrupt):
            score(modules, REVIEWS, llama, indicators=[name], progress=stop)
    assert_untouched(llama, before)


def test_errors(llama: Backbone, modules: list[LoraModule]) -> None:
    with pytest.raises(SettingError, match="unknown indicator 'vibes'; choose one of: loss, cosine, el2n, kl, grand"):
        score(modules, REVIEWS, llama, indicators=["vibes"])
    with pytest.raises(SettingError, match="unknown reduction 'max'; choose one of: mean, sum"):
        score(modules, REVIEWS, llama, reduction="max")
    with pytest.raises(SettingError, match="'kl' needs a reference module tuned on the task; give reference="):
        score(modules, REVIEWS, llama, indicators=["loss", "kl"])
    with pytest.raises(SettingError, match="no indicator was asked for; choose from: loss"):
        score(modules, REVIEWS, llama, indicators=[])
    with pytest.raises(TaskError, match="there are no examples to score on; give the task a dev split"):
        score(modules, [], llama)
