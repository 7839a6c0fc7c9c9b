"""Merge spaces: weights of groups of layers, changes from an origin, and which space takes which modules."""

import math
from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from headstart.backbones import Backbone, TextFormat
from headstart.blending import SPACES, LayerWeights, Weights, check_space, fitting_space, merge, softmax
from headstart.errors import MergeError, SettingError
from headstart.kinds import KINDS, LoraModule, Module, fresh_module
from headstart.testing import tiny_backbone
from small_hub import filled

SHAPES = {"layers.0.q": (5, 4, 2), "layers.1.q": (5, 4, 2), "head": (3, 6, 2)}
GROUPED = Weights(
    modules=(0.2, 0.3, 0.5),
    groups=(
        LayerWeights(layers=("layers.0",), modules=(1.0, 0.0, 0.0)),
        LayerWeights(layers=("layers.1",), modules=(0.0, 0.25, 0.75)),
    ),
)
THREE = tuple(filled(SHAPES, seed=seed, name=f"m{seed}") for seed in range(3))


def update(module: Module, path: str) -> Tensor:
    assert isinstance(module, LoraModule)
    factor = module.factors[path]
    return factor.scaling * (factor.b.double() @ factor.a.double())


def only(module: LoraModule, path: str) -> LoraModule:
    return LoraModule.build({path: module.factors[path]}, name=module.name, backbone=None)


@pytest.mark.parametrize("space", ["exact", "svd"])
def test_groups_of_layers_are_summed_with_their_own_weights(space: str) -> None:
    merged = merge(THREE, GROUPED, space=space, rank=6 if space == "svd" else None)
    for path in SHAPES:
        wanted = sum(weight * update(module, path) for weight, module in zip(GROUPED.of(path), THREE, strict=True))
        torch.testing.assert_close(update(merged.module, path), wanted, rtol=1e-5, atol=1e-5)
    assert merged.error == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("space", [space for space in SPACES if space != "dare"])  # it draws in order
def test_a_group_of_layers_is_what_a_merge_of_it_alone_would_be(space: str) -> None:
    merged = merge(THREE, GROUPED, space=space).module
    for path in SHAPES:
        alone = merge([only(module, path) for module in THREE], GROUPED.of(path), space=space).module
        torch.testing.assert_close(update(merged, path), update(alone, path), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("space", SPACES)
def test_equal_weights_of_every_group_are_no_groups(space: str) -> None:
    plain = (0.2, 0.3, 0.5)
    same = Weights(modules=plain, groups=(LayerWeights(layers=("layers.0", "head"), modules=plain),))
    one, other = (merge(THREE, weights, space=space, seed=3).module for weights in (plain, same))
    assert all(torch.equal(value, other.state_dict()[name]) for name, value in one.state_dict().items())


@pytest.mark.parametrize("kind", ["ia3", "bitfit", "adapter"])
def test_other_kinds_take_weights_of_groups_too(kind: str) -> None:
    modules = moved(kind, tiny_backbone("gpt2"))
    groups = (LayerWeights(layers=("transformer.h.1",), modules=(0.0, 1.0)),)
    merged = merge(modules, Weights(modules=(0.5, 0.5), groups=groups)).module.parameters()
    first, second = (module.parameters() for module in modules)
    for name, value in merged.items():
        wanted = second[name] if name.startswith("transformer.h.1.") else (first[name] + second[name]) / 2
        torch.testing.assert_close(value, wanted)


def test_the_weights_of_the_whole_are_the_mean_over_its_numbers() -> None:
    merged = merge(THREE, GROUPED)
    # Layers 0 and 1 hold 2 · (5 + 4) = 18 numbers each, the head 2 · (3 + 6) = 18: so the mean of the three groups.
    assert merged.weights == pytest.approx((1.2 / 3, 0.55 / 3, 1.25 / 3))
    assert [donor.weight for donor in merged.module.card.donors] == pytest.approx(merged.weights)
    assert merged.effective == pytest.approx(1 / sum(weight**2 for weight in merged.weights))


def test_weights_for_layers_that_are_not_there_are_refused() -> None:
    weights = Weights(modules=(0.5, 0.5), groups=(LayerWeights(layers=("layers.7",), modules=(1.0, 0.0)),))
    with pytest.raises(
        MergeError, match=r"weights for 'layers.7', where these modules have no parameter \(their first is"
    ):
        merge(THREE[:2], weights)
    backbone = tiny_backbone("llama")
    prefixes = [fresh_module("prefix", backbone, {}, name=f"p{seed}", seed=seed) for seed in (1, 2)]
    layer = Weights(modules=(0.5, 0.5), groups=(LayerWeights(layers=("model.layers.0",), modules=(1.0, 0.0)),))
    with pytest.raises(MergeError, match="their first is prefix"):
        merge(prefixes, layer)


# ---- origins


def moved(kind: str, backbone: Backbone, seeds: Sequence[int] = (1, 2)) -> list[Module]:
    modules = []
    for seed in seeds:
        fresh = fresh_module(kind, backbone, {}, name=f"m{seed}", seed=seed)
        generator = torch.Generator().manual_seed(seed)
        drawn = {k: v + 0.2 * torch.randn(v.shape, generator=generator) for k, v in fresh.parameters().items()}
        modules.append(fresh.with_parameters(drawn))
    return modules


def logits(backbone: Backbone, module: Module | None) -> Tensor:
    (item,) = backbone.encode([("the film is warm", "positive")], TextFormat())
    batch = backbone.batch([item], [0])
    with torch.inference_mode():
        if module is None:
            return backbone.target_logits(batch)
        with type(module).stack([module], backbone).attach(backbone):
            return backbone.target_logits(batch)


@pytest.mark.parametrize("space", ["parameters", "ties", "dare"])
@pytest.mark.parametrize("kind", ["lora", "ia3", "bitfit", "adapter"])
def test_three_fresh_modules_merged_are_the_backbone(kind: str, space: str) -> None:
    backbone = tiny_backbone("gpt2")
    fresh = [fresh_module(kind, backbone, {}, name=f"m{seed}", seed=seed) for seed in range(3)]
    merged = merge(fresh, (0.2, 0.3, 0.5), space=space, backbone=backbone).module
    torch.testing.assert_close(logits(backbone, merged), logits(backbone, None), rtol=1e-5, atol=1e-5)


def test_ties_of_factors_as_worked_by_hand() -> None:
    # Changes from 1 of four factors, half of which stay: (.4, −.1, .3, 0) → (.4, 0, .3, 0) and (−.5, .2, .1, 0) →
    # (−.5, .2, 0, 0). Signs by weighted sum .75, .25: .3 − .125 > 0, so + and only the first counts.
    backbone = tiny_backbone("llama")
    blank = fresh_module("ia3", backbone, {}, name="m", seed=0)
    (name, size) = next((name, len(value)) for name, value in blank.parameters().items())
    first, second = torch.zeros(size), torch.zeros(size)
    first[:3], second[:3] = torch.tensor([0.4, -0.1, 0.3]), torch.tensor([-0.5, 0.2, 0.1])
    modules = [blank.with_parameters({**blank.parameters(), name: 1 + change}) for change in (first, second)]
    merged = merge(modules, (0.75, 0.25), space="ties", density=2 / size).module.parameters()
    torch.testing.assert_close(merged[name][:4], torch.tensor([1.4, 1.2, 1.3, 1.0]))
    assert all(torch.equal(value, torch.ones_like(value)) for other, value in merged.items() if other != name)


@pytest.mark.parametrize("kind", ["ia3", "bitfit"])
def test_dare_keeps_and_rescales_changes(kind: str) -> None:
    backbone = tiny_backbone("gpt2")
    modules = moved(kind, backbone)
    origin = modules[0].origin(backbone)
    held = [module.parameters() for module in modules]
    merged = merge(modules, (0.25, 0.75), space="dare", density=0.5, seed=4, backbone=backbone).module.parameters()
    for name, value in merged.items():
        first, second = (
            (own[name] - origin[name]) * 2 * weight for own, weight in zip(held, (0.25, 0.75), strict=True)
        )
        change = value - origin[name]
        nearest = torch.stack([(change - wanted).abs() for wanted in (0 * first, first, second, first + second)])
        assert nearest.amin(0).max() < 1e-5, "each change is kept and doubled, or dropped"


def test_the_seed_of_dare_is_an_input() -> None:
    one, again, other = (merge(THREE, (0.2, 0.3, 0.5), space="dare", seed=seed).module for seed in (1, 1, 2))
    assert all(torch.equal(value, again.parameters()[name]) for name, value in one.parameters().items())
    assert not all(torch.equal(value, other.parameters()[name]) for name, value in one.parameters().items())


@pytest.mark.parametrize("space", ["ties", "dare"])
def test_bitfit_needs_its_backbone_where_changes_count(space: str) -> None:
    modules = moved("bitfit", tiny_backbone("gpt2"))
    with pytest.raises(MergeError, match="is measured from its backbone's biases; give backbone="):
        merge(modules, (0.5, 0.5), space=space)


@pytest.mark.parametrize("kind", KINDS)
def test_an_origin_has_the_names_and_shapes_of_the_parameters(kind: str) -> None:
    backbone = tiny_backbone("gpt2")
    module = moved(kind, backbone)[0]
    shapes = {name: value.shape for name, value in module.parameters().items()}
    assert {name: value.shape for name, value in module.origin(backbone).items()} == shapes
    if kind in ("ia3", "bitfit"):
        at_origin = module.with_parameters(module.origin(backbone))
        torch.testing.assert_close(logits(backbone, at_origin), logits(backbone, None), rtol=1e-5, atol=1e-5)


# ---- which space takes which modules

UNLIKE = (filled({"one": (5, 4, 2)}, seed=1, name="a"), filled({"one": (5, 4, 3)}, seed=2, name="b"))


def test_auto_is_parameters_for_equal_shapes_and_svd_for_others() -> None:
    assert fitting_space("auto", THREE).name == "parameters"
    assert fitting_space("auto", UNLIKE).name == "svd"
    assert fitting_space("auto", THREE, rank=3).name == "svd", "a rank is asked for"
    assert fitting_space("auto", moved("ia3", tiny_backbone("llama"))).name == "parameters"
    merged = merge(UNLIKE, (0.5, 0.5), space="auto")
    assert (merged.space, merged.module.card.rank) == ("svd", 3), "the largest rank among them"
    assert merge(THREE, (0.2, 0.3, 0.5), space="auto").space == "parameters"


def test_auto_refuses_unlike_modules_of_kinds_that_have_no_low_rank_form() -> None:
    backbone = tiny_backbone("llama")
    prefixes = [fresh_module("prefix", backbone, {"length": length}, name=f"p{length}", seed=1) for length in (4, 6)]
    with pytest.raises(MergeError, match=r"prefix is 6×.* in 'p6' and 4×.* in 'p4'; leave one out"):
        fitting_space("auto", prefixes)
    ones = moved("ia3", backbone)
    with pytest.raises(MergeError, match="'m1' is not a plain LoRA module, so space 'svd' does not apply"):
        fitting_space("auto", ones, rank=4)


@pytest.mark.parametrize("space", ["parameters", "ties", "dare"])
def test_unequal_shapes_are_known_from_the_shapes_alone(space: str) -> None:
    with pytest.raises(MergeError, match=r"one\.a is 3×4 in 'b' and 2×4 in 'a'; merge them with space 'exact' or"):
        fitting_space(space, UNLIKE)
    assert fitting_space(space, UNLIKE[:1]).name == space, "one alone is itself"


def test_what_auto_cannot_be_told() -> None:
    check_space("auto", rank=4, density=None)
    with pytest.raises(
        SettingError, match=r"density 0\.5 is for spaces 'core_ties', 'ties' and 'dare'; leave it out, or merge in one"
    ):
        check_space("auto", rank=None, density=0.5)
    with pytest.raises(SettingError, match="rank 0 must be at least 1; leave it out"):
        check_space("auto", rank=0, density=None)
    with pytest.raises(SettingError, match="unknown merge space 'slerp'; choose one of: parameters, exact, svd, core,"):
        check_space("slerp", rank=None, density=None)


def test_modules_of_next_to_no_weight_do_not_add_to_the_rank_of_exact() -> None:
    modules = [filled({"one": (90, 80, 1)}, seed=seed, name=f"m{seed}") for seed in range(60)]
    weights = softmax([-0.001 * seed for seed in range(60)], temperature=0.0005)
    found = merge(modules, weights, space="exact")
    # w_i = e^(-2i)(1 - e^-2): from the sixth on they sum to e^-10 = 4.5e-5, from the fifth on to 3.4e-4.
    assert found.module.card.rank == len(found.module.card.donors) == 5
    assert found.weights == pytest.approx([weight / math.fsum(weights[:5]) for weight in weights[:5]] + [0.0] * 55)
    assert found.error == pytest.approx(0, abs=1e-6)
    assert found.module.card.notes == (
        "Merged in space 'exact'. Left out, with at most 0.0001 of the weight together: 55 modules "
        "(m5, m6, m7, m8, m9 and 50 more)."
    )
    assert len(merge(modules, weights, space="svd").module.card.donors) == 60


def test_a_name_on_the_card_says_which_space_was_used() -> None:
    assert "space 'svd'" in merge(UNLIKE, (0.5, 0.5), space="auto").module.card.notes
