import json
import math
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from headstart.backbones import Backbone, TextFormat
from headstart.blending import SPACES, Weights, merge, softmax, uniform
from headstart.blending.low_rank import LowRank, combination, relative_error
from headstart.errors import MergeError
from headstart.kinds import KINDS, LoraModule, LoraSettings, fresh_module, load_module, save_module
from headstart.kinds.lora import Factors, layer_widths
from headstart.records import CARD_FILE
from headstart.testing import tiny_backbone
from small_hub import filled
from small_merges import UNLIKE, distance, full, norm, number_module, stated, weighted

SHAPES = {"one": (5, 4, 2), "two": (3, 6, 2)}
"""out, in, rank of each layer."""


@pytest.mark.parametrize("space", ["parameters", "exact"])
def test_one_module_with_weight_1_is_that_module_to_the_bit(space: str) -> None:
    module, other = filled(SHAPES, seed=1, scaling=0.7), filled({"three": (2, 2, 1)}, seed=2)
    merged = merge([other, module], [0.0, 1.0], space=space)
    assert isinstance(merged.module, LoraModule)
    assert merged.module.factors.keys() == module.factors.keys()
    for path, factor in module.factors.items():
        found = merged.module.factors[path]
        assert torch.equal(found.a, factor.a)
        assert torch.equal(found.b, factor.b)
        assert found.scaling == factor.scaling
    assert (merged.error, merged.effective, merged.weights, merged.space) == (0.0, 1.0, (0.0, 1.0), space)


def test_svd_of_one_module_at_its_own_rank_is_that_module() -> None:
    module = filled(SHAPES, seed=1, scaling=0.7)
    merged = merge([module], [1.0], space="svd")
    assert distance(full(merged.module), full(module)) <= 1e-6 * norm(full(module))
    assert merged.error is not None
    assert merged.error < 1e-6
    assert {f.a.shape[0] for f in merged.module.factors.values()} == {2}


def test_parameters_has_the_cross_terms() -> None:
    # A: ¼·1 + ¾·3 = 2.5, B: ¼·1 + ¾·5 = 4, so ΔW = 10 = 1/16·1·1 + 3/16·(1·3 + 5·1) + 9/16·5·3; but ¼·1 + ¾·15 = 11.5.
    modules, weights = [number_module(1, 1), number_module(3, 5)], (0.25, 0.75)
    merged = merge(modules, weights)
    factor = merged.module.factors["layer"]
    assert (float(factor.a), float(factor.b)) == (2.5, 4.0)
    assert merged.error == pytest.approx(1.5 / 11.5, rel=1e-12)
    assert merge(modules, weights, space="exact").error == pytest.approx(0, abs=1e-7)


def test_parameters_moves_another_scaling_into_b() -> None:
    # The second has s = 3; in the terms of the first (s = 1) its B is 15. B: ½·1 + ½·15 = 8; A: 2.
    merged = merge([number_module(1, 1), number_module(3, 5, scaling=3.0)], [0.5, 0.5]).module
    factor = merged.factors["layer"]
    assert (float(factor.a), float(factor.b), factor.scaling) == (2.0, 8.0, 1.0)


@pytest.mark.parametrize("seed", range(3))
def test_parameters_reports_the_naive_error(seed: int) -> None:
    modules = [filled(SHAPES, seed=10 * seed + index) for index in range(3)]
    weights = softmax([0.1, 0.5, 0.3], temperature=0.2)
    merged = merge(modules, weights)
    wanted = weighted(modules, weights)
    assert merged.error == pytest.approx(distance(full(merged.module), wanted) / norm(wanted), rel=1e-9)


def test_exact_is_the_weighted_sum_of_updates() -> None:
    weights = (0.2, 0.5, 0.3)
    merged = merge(UNLIKE, weights, space="exact")
    wanted = weighted(UNLIKE, weights)
    assert distance(full(merged.module), wanted) <= 1e-6 * norm(wanted)
    ranks = {path: f.a.shape[0] for path, f in merged.module.factors.items()}
    assert ranks == {"one": 2 + 3, "two": 1 + 2, "three": 2}
    assert merged.error is not None
    assert merged.error < 1e-6


@given(seed=st.integers(0, 10**6), count=st.integers(1, 4))
def test_exact_is_exact_for_any_shapes(seed: int, count: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    draw = lambda most: int(torch.randint(1, most + 1, (), generator=generator))  # noqa: E731
    widths = {path: (draw(7), draw(7)) for path in "ab"}
    modules = [
        filled({path: (*size, draw(4)) for path, size in widths.items()}, seed=seed + index, scaling=draw(3) / 2)
        for index in range(count)
    ]
    weights = softmax([float(draw(9)) for _ in modules], temperature=3.0)
    wanted = weighted(modules, weights)
    found = merge(modules, weights, space="exact")
    assert distance(full(found.module), wanted) <= 2e-6 * norm(wanted)


@pytest.mark.parametrize("rank", [1, 2, 3, 50])
@pytest.mark.parametrize(("outer", "inner"), [(12, 10), (10, 12), (4, 3)], ids=["tall", "wide", "small"])
def test_svd_misses_what_eckart_and_young_say(rank: int, outer: int, inner: int) -> None:
    modules = [filled({"one": (outer, inner, 2), "two": (9, 9, 3)}, seed=seed, scaling=0.5) for seed in (1, 2)]
    weights = (0.25, 0.75)
    merged = merge(modules, weights, space="svd", rank=rank)
    wanted = weighted(modules, weights)
    tails = [torch.linalg.svdvals(update)[rank:].pow(2).sum() for update in wanted.values()]
    least = math.sqrt(float(sum(tails))) / norm(wanted)
    assert merged.error == pytest.approx(least, abs=1e-6)
    assert distance(full(merged.module), wanted) / norm(wanted) == pytest.approx(least, abs=1e-6)
    assert all(f.a.shape[0] <= rank for f in merged.module.factors.values())


def test_svd_keeps_the_largest_rank_by_default_and_shares_the_singular_values() -> None:
    merged = merge(UNLIKE, (0.2, 0.5, 0.3), space="svd").module
    assert {path: f.a.shape[0] for path, f in merged.factors.items()} == {
        "one": 3,
        "two": 3,
        "three": 2,
    }  # ΔW of three has rank 2
    for factor in merged.factors.values():
        torch.testing.assert_close(factor.a.norm(dim=1), factor.b.norm(dim=0))


def test_a_module_that_does_nothing_may_take_part() -> None:
    idle = filled({"one": (5, 4, 2)}, seed=1, scaling=0.0, name="idle")
    busy = filled({"one": (5, 4, 2)}, seed=2, name="busy")
    for space in ("exact", "svd"):
        merged = merge([idle, busy], (0.5, 0.5), space=space, rank=2 if space == "svd" else None)
        assert distance(full(merged.module), weighted([busy], [0.5])) < 1e-5
    assert merge([idle], [1.0], space="svd").error == 0.0


def rotated(module: LoraModule) -> LoraModule:
    """The same ΔW from other factors: B → B R⁻¹, A → R A with a rotation R."""
    turn = torch.linalg.qr(torch.randn(2, 2, generator=torch.Generator().manual_seed(5)))[0]
    factors = {path: Factors(turn @ f.a, f.b @ turn.T, f.scaling) for path, f in module.factors.items()}
    return LoraModule.build(factors, name="rotated", backbone=None)


def test_a_rotation_inside_a_module_changes_parameters_but_not_exact() -> None:
    one, two = filled(SHAPES, seed=1), filled(SHAPES, seed=2)
    same = rotated(two)
    assert distance(full(same), full(two)) < 1e-5
    results = {
        space: [full(merge([one, other], (0.5, 0.5), space=space).module) for other in (two, same)]
        for space in ("parameters", "exact")
    }
    assert distance(*results["exact"]) < 1e-5
    assert distance(*results["parameters"]) > 0.1 * norm(results["parameters"][0])


@pytest.mark.parametrize("space", [space for space in SPACES if space != "dare"])  # it draws in order
def test_weights_need_not_follow_an_order(space: str) -> None:
    modules, weights = [filled(SHAPES, seed=seed) for seed in range(3)], (0.2, 0.3, 0.5)
    forward = merge(modules, weights, space=space)
    backward = merge(modules[::-1], weights[::-1], space=space)
    assert distance(full(forward.module), full(backward.module)) <= 1e-5 * norm(full(forward.module))


@pytest.mark.parametrize("space", ["exact", "svd"])
def test_unequal_ranks_and_targets_merge_into_what_the_backbone_computes(space: str, tmp_path: Path) -> None:
    # One adapts the queries at rank 2, the other down_proj and the queries of layer 1 alone at rank 3.
    backbone = tiny_backbone("llama")
    first = drawn(backbone, LoraSettings(2, 4.0, ("q_proj",)), seed=1)
    second = drawn(backbone, LoraSettings(3, 9.0, ("down_proj", "layers.1.self_attn.q_proj")), seed=2)
    merged = merge([first, second], (0.4, 0.6), space=space, rank=5 if space == "svd" else None)
    merged.module.check(backbone)
    assert merged.module.factors.keys() == first.factors.keys() | second.factors.keys()
    wanted = weighted([first, second], (0.4, 0.6))  # no layer has more than rank 2 + 3, so nothing is cut off
    assert distance(full(merged.module), wanted) <= 1e-6 * norm(wanted)
    save_module(merged.module, tmp_path / "merged")
    again = load_module(tmp_path / "merged")
    again.check(backbone)
    assert distance(full(again), wanted) <= 1e-6 * norm(wanted)


@pytest.mark.parametrize("space", SPACES)
@pytest.mark.parametrize("kind", KINDS)
def test_one_module_of_any_kind_is_itself_in_every_space_or_refused(kind: str, space: str, tmp_path: Path) -> None:
    backbone = tiny_backbone("gpt2")
    fresh = fresh_module(kind, backbone, {}, name="one", seed=1)
    generator = torch.Generator().manual_seed(1)
    one = fresh.with_parameters(
        {k: v + 0.2 * torch.randn(v.shape, generator=generator) for k, v in fresh.parameters().items()}
    )
    if "lora" in SPACES[space].needs and kind != "lora":
        with pytest.raises(MergeError, match=rf"'one' is not a plain LoRA module, so space '{space}' does not apply"):
            merge([fresh, one], [0.0, 1.0], space=space)
        return
    merged = merge([fresh, one], [0.0, 1.0], space=space)
    save_module(merged.module, tmp_path / "merged")
    again = load_module(tmp_path / "merged")
    (item,) = backbone.encode([("the film is warm", "positive")], TextFormat())
    found = []
    for module in (one, again):
        with torch.inference_mode(), type(module).stack([module], backbone).attach(backbone):
            found.append(backbone.target_logits(backbone.batch([item], [0])))
    if space == "svd" or space.startswith("core"):
        torch.testing.assert_close(found[1], found[0], rtol=1e-4, atol=1e-4)
    else:
        assert torch.equal(found[1], found[0])
    assert merged.error == pytest.approx(0.0, abs=1e-6)


# ---- errors of a sum


@pytest.mark.parametrize("space", SPACES)
def test_the_error_lies_on_the_card_and_in_the_folder(space: str, tmp_path: Path) -> None:
    modules = [drawn(tiny_backbone("llama"), LoraSettings(3, 6.0, ("q_proj",)), seed=seed) for seed in (1, 2)]
    merged = merge(modules, (0.25, 0.75), space=space, rank=2 if space == "svd" else None)
    wanted = weighted(modules, (0.25, 0.75))
    naive = distance(full(merged.module), wanted) / norm(wanted)
    assert merged.error == pytest.approx(naive, rel=1e-6, abs=1e-7)
    assert (merged.error > 0.01) == (space != "exact")
    saved = save_module(merged.module, tmp_path / "merged")
    assert saved.card.merge_error == merged.error
    assert json.loads((tmp_path / "merged" / CARD_FILE).read_text())["merge_error"] == merged.error
    assert load_module(tmp_path / "merged").card.merge_error == merged.error
    assert f"| ΔW error of the merge | {merged.error:.3g} |" in (tmp_path / "merged" / "README.md").read_text()


def test_an_infinite_error_is_told_in_words() -> None:
    # ΔW is 3·1 and 1·(−3), so their mean is 0; but A: ½·3 + ½·1 = 2 and B: ½·1 − ½·3 = −1.
    merged = merge([number_module(3, 1), number_module(1, -3)], (0.5, 0.5))
    assert merged.error == math.inf
    assert merged.module.card.merge_error is None
    assert merged.module.card.notes.endswith("Its ΔW error is infinite: the exact sum is 0.")
    assert "Infinity" not in merged.module.card.to_json()


def test_kinds_without_a_low_rank_update_have_no_error() -> None:
    backbone = tiny_backbone("llama")
    modules = [fresh_module("ia3", backbone, {}, name=f"m{seed}", seed=seed) for seed in (1, 2)]
    assert merge(modules, (0.5, 0.5)).module.card.merge_error is None


def test_norms_agree_with_full_matrices_where_terms_nearly_cancel() -> None:
    left, right = torch.randn(30, 3).double(), torch.randn(3, 20).double()
    near = LowRank(left, right * (1 + 1e-9))
    assert LowRank(left, right).norm() == pytest.approx(float((left @ right).norm()), rel=1e-12)
    assert near.minus(LowRank(left, right)).norm() == pytest.approx(1e-9 * float((left @ right).norm()), rel=1e-5)


def test_the_error_of_nothing_is_zero_and_of_something_for_nothing_infinite() -> None:
    nothing = combination([number_module(1, 0)], Weights(modules=(1.0,)))
    assert relative_error(nothing, nothing) == 0
    assert relative_error(combination([number_module(1, 1)], Weights(modules=(1.0,))), nothing) == math.inf


# ---- the card, and what other tools read


def test_the_card_names_the_donors() -> None:
    one = stated(number_module(1, 1), name="one", license="mit", tensor_hash="h1", dataset_license="cc-by")
    two = stated(number_module(2, 1), name="two", task="t", score=0.5, tensor_hash="h2")
    card = merge([one, two, number_module(9, 9)], (0.25, 0.75, 0.0), name="blend", space="exact").module.card
    assert (card.name, card.kind, card.task, card.score, card.tensor_hash) == ("blend", "lora", "", None, "")
    assert [(d.name, d.weight, d.license, d.tensor_hash) for d in card.donors] == [
        ("one", 0.25, "mit", "h1"),
        ("two", 0.75, "", "h2"),
    ]
    assert (card.license, card.dataset_license) == ("mixed: unstated; mit", "cc-by")
    assert "exact" in card.notes


def test_a_licence_that_all_donors_share_is_the_licence() -> None:
    both = [stated(number_module(value, 1), license="mit") for value in (1.0, 2.0)]
    assert merge(both, uniform(2)).module.card.license == "mit"
    assert merge([number_module(1, 1), number_module(2, 1)], uniform(2)).module.card.license == ""


@pytest.mark.parametrize("name", ["tiny_llama", "tiny_gpt2"])
@pytest.mark.parametrize("space", SPACES)
def test_peft_computes_the_saved_result_alike(
    name: str, space: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    folder = request.getfixturevalue(name)
    backbone = Backbone.load(folder, device="cpu", dtype="float32")
    targets = {"tiny_llama": ("q_proj", "down_proj"), "tiny_gpt2": ("c_attn", "mlp.c_proj")}[name]
    unlike = space in ("exact", "svd")
    modules = [
        drawn(backbone, LoraSettings(2, 4.0, targets), seed=1),
        drawn(backbone, LoraSettings(3 if unlike else 2, 9.0, targets[:1] if unlike else targets), seed=2),
    ]
    merged = merge(modules, (0.4, 0.6), space=space, rank=4 if space == "svd" else None, name="blend")
    saved = save_module(merged.module, tmp_path / "blend")
    module = load_module(tmp_path / "blend")
    module.check(backbone)
    assert module.card == saved.card
    (item,) = backbone.encode([("the film is warm", "positive")], TextFormat())
    batch = backbone.batch([item], [0])
    with torch.inference_mode():
        with type(module).stack([module], backbone).attach(backbone):
            ours = backbone.target_logits(batch)[0]
        model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
        ids = torch.tensor([item.prompt + item.target[:-1]])
        theirs = PeftModel.from_pretrained(model, tmp_path / "blend")(input_ids=ids).logits[0, len(item.prompt) - 1 :]
        bare = backbone.target_logits(batch)[0]
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)
    assert (ours - bare).abs().max() > 0.05, "the module must matter"
    if space == "exact":
        by_hand = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
        with torch.inference_mode():
            for path, update in weighted(modules, (0.4, 0.6)).items():
                layer = by_hand.get_submodule(path)
                transposed = layer.weight.shape != update.shape or type(layer).__name__ == "Conv1D"
                layer.weight += (update.T if transposed else update).float()
            naive = by_hand(input_ids=ids).logits[0, len(item.prompt) - 1 :]
        torch.testing.assert_close(ours, naive, rtol=1e-4, atol=1e-4)


def drawn(backbone: Backbone, settings: LoraSettings, *, seed: int) -> LoraModule:
    """A fresh module with values that matter, and widths as the backbone has them."""
    fresh = LoraModule.fresh(backbone, settings, name=f"m{seed}", seed=seed)
    for path, factor in fresh.factors.items():
        assert layer_widths(backbone.model.get_submodule(path)) == (factor.a.shape[1], factor.b.shape[0])
    generator = torch.Generator().manual_seed(seed)
    parameters = {key: torch.randn(value.shape, generator=generator) * 0.2 for key, value in fresh.parameters().items()}
    return fresh.with_parameters(parameters)


def test_the_folder_states_what_peft_needs(tiny_gpt2: Path, tmp_path: Path) -> None:
    backbone = Backbone.load(tiny_gpt2, device="cpu", dtype="float32")
    modules = [drawn(backbone, LoraSettings(2, 4.0, ("c_attn",)), seed=seed) for seed in (1, 2)]
    save_module(merge(modules, uniform(2), space="exact").module, tmp_path / "blend")
    config = json.loads((tmp_path / "blend" / "adapter_config.json").read_text())
    assert config["fan_in_fan_out"] is True
    assert config["task_type"] == "CAUSAL_LM"
    assert config["base_model_name_or_path"] == "tiny-gpt2"
