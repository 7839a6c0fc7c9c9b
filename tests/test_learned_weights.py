"""Weights and scales that held-out rows choose: the loss that they see is the merge's, and they are found again."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from headstart.backbones import Backbone, TextFormat
from headstart.blending import Blend, Candidate, LayerWeights, Learning, Request, Weights, merge, softmax
from headstart.blending.blend import SCALES
from headstart.blending.ensemble import Start, blend_note, ensemble
from headstart.blending.held_out import target_losses
from headstart.blending.learning import Mixture, layer_groups, learn, split_rows
from headstart.blending.rules.nevergrad import _objective
from headstart.blending.weights import temperature_for
from headstart.comparing.compare import compare
from headstart.errors import MergeError, SettingError, TaskError
from headstart.kinds import Module, fresh_module
from headstart.ranking.rank import rank
from headstart.tasks import Example, Task
from headstart.testing import tiny_backbone
from headstart.units import Store
from small_hub import RECIPE, module, write_task

ROWS = [
    Example("the film is warm", ("positive",)),
    Example("the book is dull", ("negative",)),
    Example("a delight", ("positive",)),
    Example("boring , and silly", ("negative",)),
]
WEIGHTS = (0.5, 0.2, 0.3)
GROUPS = [("model.layers.0",), ("model.layers.1",)]


@pytest.fixture(scope="module")
def hub(llama: Backbone) -> list[Module]:
    return [module(llama, name, seed=seed) for seed, name in enumerate(("ada", "bob", "cyd"))]


@pytest.fixture(scope="module")
def task(tmp_path_factory: pytest.TempPathFactory) -> Task:
    return Task.load(write_task(tmp_path_factory.mktemp("task") / "task"))


def losses(modules: Sequence[Module], backbone: Backbone) -> list[float]:
    return target_losses(modules, ROWS, backbone, text_format=TextFormat())


def mixed(mixture: Mixture, backbone: Backbone, shares: torch.Tensor) -> torch.Tensor:
    return mixture.loss(shares, backbone.encode([(row.text, row.target) for row in ROWS], TextFormat()))


@pytest.mark.parametrize("scale", [1.0, 1.5])
def test_a_mixture_is_the_exact_sum_of_any_ranks(llama: Backbone, hub: list[Module], scale: float) -> None:
    modules = [*hub[:2], module(llama, "fat", seed=9, rank=3, alpha=1.0)]
    groups = tuple(LayerWeights(layers=own, modules=row) for own, row in zip(GROUPS, (WEIGHTS, (0, 1, 0)), strict=True))
    whole = merge(modules, Weights(modules=WEIGHTS, groups=groups), space="exact", scale=scale).module
    mixture = Mixture(modules, llama, groups=GROUPS, summed=True, scale=scale)
    found = mixed(mixture, llama, torch.tensor([WEIGHTS, (0.0, 1.0, 0.0)]))
    assert float(found) == pytest.approx(losses([whole], llama)[0], rel=1e-5)


@pytest.mark.parametrize("kind", ["lora", "ia3", "bitfit", "prompt", "prefix", "adapter"])
def test_a_mixture_is_the_average_of_any_kind(kind: str) -> None:
    backbone, modules = tiny_backbone("gpt2"), []
    for seed in range(3):
        fresh = fresh_module(kind, backbone, {}, name=f"m{seed}", seed=seed)
        generator = torch.Generator().manual_seed(seed)
        drawn = {k: v + 0.2 * torch.randn(v.shape, generator=generator) for k, v in fresh.parameters().items()}
        modules.append(fresh.with_parameters(drawn))
    whole = merge(modules, WEIGHTS, scale=1.5, backbone=backbone).module
    mixture = Mixture(modules, backbone, groups=[()], summed=False, scale=1.5)
    wanted = losses([whole], backbone)[0]
    with torch.no_grad():
        assert float(mixed(mixture, backbone, torch.tensor([(1.0, 0.0, 0.0)]))) != pytest.approx(wanted, rel=1e-3)
        assert float(mixed(mixture, backbone, torch.tensor([WEIGHTS]))) == pytest.approx(wanted, rel=1e-5)
    shares = torch.tensor([WEIGHTS], requires_grad=True)
    (gradient,) = torch.autograd.grad(mixed(mixture, backbone, shares), shares)
    step, numeric = 1e-2, []
    for index in range(3):
        ends = [torch.tensor([WEIGHTS]), torch.tensor([WEIGHTS])]
        ends[0][0, index] += step
        ends[1][0, index] -= step
        numeric.append(
            sum(sign * float(mixed(mixture, backbone, end)) for sign, end in zip((1, -1), ends, strict=True))
        )
    assert gradient[0].tolist() == pytest.approx([value / (2 * step) for value in numeric], rel=0.05, abs=2e-3)


@pytest.mark.parametrize(
    "learning", [Learning(), Learning(groups=2), Learning(signed=True), Learning(signed=True, l1=0.5)]
)
def test_learned_weights_are_the_best_seen_and_come_again(
    llama: Backbone, hub: list[Module], learning: Learning
) -> None:
    found, again = (
        learn(hub, ROWS, llama, summed=True, text_format=TextFormat(), learning=learning, seed=3) for _ in range(2)
    )
    assert found == again
    shares, groups, curve = found
    assert len(shares) == len(groups) == learning.groups
    if not learning.signed:
        assert all(sum(row) == pytest.approx(1, abs=1e-12) and min(row) > 0 for row in shares)
    mixture = Mixture(hub, llama, groups=groups, summed=True)
    stopped_on = [ROWS[index] for index in split_rows(ROWS, seed=3)[1]]
    items = llama.encode([(row.text, row.target) for row in stopped_on], TextFormat())
    assert float(mixture.loss(torch.tensor(shares), items)) == pytest.approx(min(p["loss"] for p in curve), rel=1e-5)


@pytest.mark.parametrize("parts", [(0, 0, 1, 1, 2, 2), (0, 0, 0, 0, 0, 1), (0, 1, 1, 1, 1, 1), (3, 1, 2, 0, 5, 4)])
def test_rows_that_belong_together_are_in_one_half(parts: tuple[int, ...]) -> None:
    rows = [Example(f"row {index}", ("a",)) for index in range(len(parts))]
    for seed in range(5):
        learned_on, stopped_on = split_rows(rows, seed=seed, parts=parts)
        assert sorted([*learned_on, *stopped_on]) == list(range(len(rows)))
        assert not {parts[index] for index in learned_on} & {parts[index] for index in stopped_on}
        assert learned_on
        assert stopped_on
        if len(set(parts)) == len(parts):
            assert (learned_on, stopped_on) == split_rows(rows, seed=seed)
            assert len(learned_on) == 3


def test_rows_are_split_and_layers_grouped(llama: Backbone, hub: list[Module]) -> None:
    for count in (2, 5):
        rows = [Example(f"row {index}", ("a",)) for index in range(count)]
        learned_on, stopped_on = split_rows(rows, seed=1)
        assert sorted([*learned_on, *stopped_on]) == list(range(count))
        assert len(learned_on) - len(stopped_on) in (0, 1)
    with pytest.raises(SettingError, match=r"needs two held-out rows at least that do not .*; add rows"):
        split_rows(ROWS[:1], seed=0)
    with pytest.raises(SettingError, match="or rows of other groups"):
        split_rows(ROWS[:3], seed=0, parts=(0, 0, 0))
    assert layer_groups(hub, 2) == GROUPS
    with pytest.raises(
        SettingError, match="groups 3 is more than the 2 numbered layers that the modules adapt; lower it"
    ):
        layer_groups(hub, 3)


def weighed(blend: str, task: Task, hub: list[Module], backbone: Backbone, store: Store | bool = False) -> Start:
    return ensemble(task, hub, backbone, blend=blend, recipe=RECIPE, seed=2, store=store)


@pytest.mark.parametrize("blend", ["held_out:indicator=loss", "uniform:scale=held_out"])
def test_losses_of_which_none_is_finite_choose_nothing(
    blend: str, task: Task, hub: list[Module], llama: Backbone
) -> None:
    with pytest.raises(MergeError) as caught:
        ensemble(task, hub, llama, blend=blend, recipe=RECIPE, store=False, held_out=lambda _: math.nan)
    assert str(caught.value) == (
        "no blend that was tried has a finite loss on the held-out rows; use another rule and scale"
    )


def test_weights_of_modules_that_diverged_are_not_learned(llama: Backbone, hub: list[Module]) -> None:
    broken = [one.with_parameters({k: v * math.nan for k, v in one.parameters().items()}) for one in hub]
    with pytest.raises(MergeError, match="no weights that were tried have a finite loss on the held-out rows; use an"):
        learn(broken, ROWS, llama, summed=False, text_format=TextFormat(), learning=Learning(), seed=3)


def test_tau_and_scale_are_those_of_the_lowest_held_out_loss(task: Task, hub: list[Module], llama: Backbone) -> None:
    start = weighed("held_out:indicator=loss,scale=held_out", task, hub, llama)
    scores = rank(task, hub, llama, indicators="loss", recipe=RECIPE, seed=2, store=False).scores.values["loss"]
    tried = [softmax(scores, temperature=temperature_for(number, scores)) for number in (1.0, 2.0, 3.0)]

    def loss(weights: Sequence[float], scale: float = 1.0) -> float:
        merged = merge(hub, weights, scale=scale).module
        return target_losses([merged], task.train, llama, text_format=TextFormat())[0]

    best = min(tried, key=loss)
    scale = min(SCALES, key=lambda value: loss(best, value))
    assert start.merged.weights == pytest.approx(best, abs=1e-9)
    assert start.merged.scale == scale
    assert f"scale {scale:g} chosen on held-out loss" in blend_note(start)
    assert start.module.digest() == merge(hub, start.merged.weights, scale=scale).module.digest()


@pytest.mark.parametrize(
    "blend", ["gradient:groups=2,space=svd,rank=4", "gradient:signed=true,space=exact", "nevergrad"]
)
def test_learned_starts_are_reproducible_units(
    blend: str, task: Task, hub: list[Module], llama: Backbone, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("headstart.blending.rules.nevergrad.BUDGET", 6)
    if blend == "nevergrad":
        pytest.importorskip("nevergrad")
    with Store.opened(tmp_path / "store") as store:
        first = weighed(blend, task, hub, llama, store)
        monkeypatch.setattr("headstart.blending.held_out.target_losses", lambda *_, **__: pytest.fail("computed again"))
        monkeypatch.setattr("headstart.blending.learning.learn", lambda *_, **__: pytest.fail("computed again"))
        again = weighed(blend, task, hub, llama, store)
    assert first.merged.weights == again.merged.weights
    assert first.module.digest() == again.module.digest()
    if blend.startswith("gradient:groups"):
        assert sum(first.merged.weights) == pytest.approx(1)
        assert first.merged.error is not None
    if blend == "nevergrad":
        assert all(abs(weight) <= 1.5 for weight in first.merged.weights)
    assert [donor.weight for donor in first.module.card.donors] == pytest.approx([w for w in first.merged.weights if w])


def test_a_larger_l1_norm_shrinks_the_weights(
    task: Task, hub: list[Module], llama: Backbone, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Where the loss is ½ Σ (w − a)², the least loss + l1 · Σ |w| is at sign(w) · max(|a| − l1, 0).
    least = torch.tensor([[0.7, 0.6, -0.5]])
    monkeypatch.setattr(Mixture, "loss", lambda self, shares, items: (shares - least).square().sum() / 2)
    for l1, wanted in ((0.0, (0.7, 0.6, -0.5)), (0.1, (0.6, 0.5, -0.4)), (0.2, (0.5, 0.4, -0.3))):
        found = weighed(f"gradient:signed=true,l1={l1},space=exact", task, hub, llama).merged.weights
        assert found == pytest.approx(wanted, abs=0.02), l1


@dataclass
class Constant:
    """Held-out rows on which every blend has the same loss."""

    loss: float

    def losses(self, tried: Sequence[Weights]) -> list[float]:
        return [self.loss] * len(tried)

    def learned(self, learning: Learning, positions: Sequence[int]) -> Weights:
        raise NotImplementedError


@pytest.mark.parametrize(
    ("weights", "l1", "loss", "expected"),
    [
        # cyd cannot be merged, so the mean size of the other three is (0.6 + 0.9 + 0) / 3 = 0.5.
        ((0.6, -0.9, 0.0, 0.0), None, 1.25, 1.25 + 0.05 * 0.5),
        ((0.6, -0.9, 0.0, 0.0), 0.4, 1.25, 1.25 + 0.4 * 0.5),
        ((1.5, 1.5, 0.0, 1.5), 0.4, 1.25, 1.25 + 0.4 * 1.5),
        ((0.6, -0.9, 0.0, 0.0), 0.0, 1.25, 1.25),
        ((0.0, 0.0, 0.0, 0.0), 0.4, 1.25, math.inf),  # no module
        ((0.6, -0.9, 0.0, 0.0), 0.4, math.nan, math.inf),
    ],
)
def test_what_nevergrad_minimizes_by_hand(
    weights: tuple[float, ...], l1: float | None, loss: float, expected: float
) -> None:
    candidates = [Candidate(name, merges=name != "cyd") for name in ("ada", "bob", "cyd", "dan")]
    request = Request(Blend(rule="nevergrad", l1=l1), candidates, held_out=Constant(loss))
    assert _objective(request, Weights(modules=weights, signed=True)) == pytest.approx(expected)


def test_a_sum_with_signs(hub: list[Module]) -> None:
    signed = Weights(modules=(1.5, -0.5, 0.0), signed=True)
    merged = merge(hub, signed, space="exact")
    assert merged.error == pytest.approx(0, abs=1e-6)
    for path, factor in merged.module.factors.items():  # type: ignore[attr-defined]
        ada, bob = (each.factors[path] for each in hub[:2])  # type: ignore[attr-defined]
        wanted = 1.5 * ada.scaling * (ada.b @ ada.a) - 0.5 * bob.scaling * (bob.b @ bob.a)
        torch.testing.assert_close(factor.scaling * (factor.b @ factor.a), wanted, rtol=1e-4, atol=1e-5)
    assert merged.effective == pytest.approx(4 / 2.5)
    alone = merge(hub, Weights(modules=(-1.0, 0.0, 0.0), signed=True))
    assert float((alone.module.parameters()["model.layers.0.self_attn.q_proj.b"]
                  + hub[0].parameters()["model.layers.0.self_attn.q_proj.b"]).abs().max()) == 0  # fmt: skip
    with pytest.raises(
        MergeError, match="space 'ties' takes no weights with signs; merge in one of: parameters, exact"
    ):
        merge(hub, signed, space="ties")
    for weights in (Weights(modules=(0.0, 0.0, 0.0), signed=True), Weights(modules=(math.nan, 0.0, 0.0), signed=True)):
        with pytest.raises(MergeError, match="the weights must be 3 numbers"):
            merge(hub, weights)


@pytest.mark.parametrize(
    ("blend", "said"),
    [
        ("gradient:temperature=1", "temperature 1.0 is not for rule 'gradient'"),
        ("gradient:l1=0.1", "l1 0.1 does nothing for weights that sum to 1; leave it out, or give signed too"),
        ("gradient:groups=0", "groups 0 must be at least 1"),
        ("gradient:signed=true,space=core_ties", "space 'core_ties' takes no weights with signs; merge in one of"),
        ("gradient:split=test", "split 'test' of a blend is none to hold rows out of; choose one of: train, dev"),
        ("softmax:split=dev", "split dev is not for rule 'softmax'"),
        ("softmax:scale=0", "scale='0' of a blend: .*a scale is a number above 0, or held_out; correct it"),
        ("softmax:scale=big", "scale='big' of a blend"),
    ],
)
def test_what_no_rule_can_use(blend: str, said: str, task: Task, hub: list[Module], llama: Backbone) -> None:
    with pytest.raises(SettingError, match=said):
        ensemble(task, hub, llama, blend=blend, recipe=RECIPE, store=False)


def test_what_is_missing_is_named(
    task: Task, hub: list[Module], llama: Backbone, monkeypatch: pytest.MonkeyPatch
) -> None:
    rowless = Task(task.card, {"dev": task.dev})
    with pytest.raises(TaskError, match="has no split 'train'"):
        ensemble(rowless, hub, llama, blend="gradient", store=False)
    assert ensemble(rowless, hub, llama, blend="gradient:split=dev", store=False).rule == "gradient"
    monkeypatch.setattr("headstart.extras.find_spec", lambda _: None)
    with pytest.raises(
        SettingError, match=r"rule 'nevergrad' needs the package nevergrad, .* pip install 'headstart\[nevergrad\]'"
    ):
        ensemble(task, hub, llama, blend="nevergrad", store=False)
    bert = tiny_backbone("bert")
    own = [fresh_module("lora", bert, {}, name=f"m{seed}", seed=seed) for seed in range(2)]
    with pytest.raises(SettingError, match="is an encoder: before tuning, a start has no task head"):
        ensemble(task, own, bert, blend="gradient", store=False)


def test_a_comparison_learns_weights_too(task: Task, hub: list[Module], llama: Backbone) -> None:
    found = compare(
        task, hub, llama, methods=["scratch", "mine=gradient:groups=2", "wide=uniform:scale=held_out"], seeds=1,
        shots=3, recipe=RECIPE, store=False,
    )  # fmt: skip
    notes = dict(zip(found.starts["method"], found.starts["note"], strict=True))
    assert notes["mine"].startswith("gradient: effective number of modules")
    assert "chosen on held-out loss" in notes["wide"]
    assert Blend.parse("gradient:groups=2,signed=true").signed
