"""LoRA: the stack against a float64 reference and against PEFT itself, and what is refused."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import made_by_peft
from headstart.backbones import Backbone
from headstart.embeddings import tuned_parameters
from headstart.errors import MergeError, ModuleError, SettingError
from headstart.kinds import LoraModule, LoraSettings, load_module, save_module
from headstart.kinds.lora import Factors, layer_widths
from headstart.records import Fingerprint, ModuleCard
from naive import (
    TARGETS,
    Merged,
    assert_close,
    assert_same_parameters,
    assert_untouched,
    encoded,
    load,
    photograph,
    random_lora,
)

Q0, Q1 = (f"model.layers.{number}.self_attn.q_proj" for number in (0, 1))
V0 = "model.layers.0.self_attn.v_proj"


def factors(ranks: Mapping[str, int], scalings: Mapping[str, float], backbone: Backbone) -> dict[str, Factors]:
    generator = torch.Generator().manual_seed(5)
    made = {}
    for path, rank in ranks.items():
        inputs, outputs = layer_widths(backbone.model.get_submodule(path))
        a, b = (torch.randn(shape, generator=generator) * 0.2 for shape in ((rank, inputs), (outputs, rank)))
        made[path] = Factors(a, b, scalings[path])
    return made


# The update of one layer


def test_one_layer_by_hand(llama: Backbone) -> None:
    # A = [1 0 0 …], B = first row 1, s = 2: the first output grows by 2·x₀ and nothing else moves.
    layer = llama.model.get_submodule(Q0)
    a, b = torch.zeros(1, 32), torch.zeros(32, 1)
    a[0, 0] = b[0, 0] = 1.0
    module = LoraModule.build({Q0: Factors(a, b, 2.0)}, name="m", backbone=llama)
    x = torch.randn(1, 4, 32)
    with torch.inference_mode():
        before = layer(x)
        with LoraModule.stack([module], llama).attach(llama):
            grown = layer(x) - before
    assert_close(grown[..., 0], 2 * x[..., 0], within=1e-5)
    assert_close(grown[..., 1:], torch.zeros(1, 4, 31), within=0.0)


def test_a_layer_against_a_naive_float64_reference(backbone: Backbone) -> None:
    modules = [random_lora(backbone, seed=seed, alpha=seed + 1.5) for seed in (1, 2)]
    x = torch.randn(2 * 3, 5, 48, generator=torch.Generator().manual_seed(3))
    with torch.inference_mode(), LoraModule.stack(modules, backbone).attach(backbone):
        for path in modules[0].factors:
            layer = backbone.model.get_submodule(path)
            inputs, _ = layer_widths(layer)
            rows = x[..., :inputs]
            found = layer(rows)
            weight = layer.weight.double().T if type(layer).__name__ == "Conv1D" else layer.weight.double()
            bias = 0.0 if layer.bias is None else layer.bias.double()
            for row in range(6):
                a, b, scaling, _ = modules[row // 3].factors[path]
                for place in range(5):
                    v = rows[row, place].double()
                    wanted = weight @ v + bias + scaling * (b.double() @ (a.double() @ v))
                    assert_close(found[row, place], wanted, within=1e-5)


def test_the_whole_backbone_against_merged_float64_weights(backbone: Backbone) -> None:
    items = encoded(backbone)
    modules = [random_lora(backbone, seed=seed, alpha=seed + 1.5) for seed in (1, 2)]
    found = made_by_peft.ours(backbone, modules, items)
    for row, module in zip(found, modules, strict=True):
        merged = Merged(backbone, module)
        assert_close(row, torch.cat([merged.logits(item) for item in items]), within=2e-4)
    assert not torch.allclose(found[0], found[1], atol=0.1), "the modules must differ for this to say anything"


def test_bfloat16_keeps_the_scaling_exact(tiny_llama: Path) -> None:
    # s = 1.004 lies between the bfloat16 numbers 1 and 1.0078125. Where the layer's output is 1000·s it is 1004, and
    # 1004 is a bfloat16 number; with s rounded first it would be 1000 or 1008.
    backbone = load(tiny_llama, "bfloat16")
    a, b = torch.zeros(1, 32), torch.zeros(32, 1)
    a[0, 0] = b[0, 0] = 1.0
    module = LoraModule.build({Q0: Factors(a, b, 1.004)}, name="m", backbone=backbone)
    layer = backbone.model.get_submodule(Q0)
    x = torch.zeros(1, 1, 32, dtype=torch.bfloat16)
    x[..., 0] = 1000.0
    kept = layer.weight.clone()
    layer.weight.zero_()
    with torch.inference_mode(), LoraModule.stack([module], backbone).attach(backbone):
        found = layer(x)[0, 0, 0].item()
    layer.weight.copy_(kept)
    assert found == 1004.0


# PEFT


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"use_rslora": True},
        {"rank_pattern": "of the first target", "alpha_pattern": "of the last"},
        {"target_modules": "all-linear"},
        {"use_rslora": True, "layers_to_transform": [1]},
    ],
    ids=["plain", "rslora", "patterns", "all-linear", "some layers"],
)
def test_peft_computes_the_same(folder: Path, backbone: Backbone, tmp_path: Path, settings: dict[str, Any]) -> None:
    names = TARGETS[folder.name]
    if "rank_pattern" in settings:
        settings = {"rank_pattern": {names[0]: 5}, "alpha_pattern": {names[-1]: 11}}
    if "layers_to_transform" in settings:
        blocks = {"tiny-llama": "layers", "tiny-gpt2": "h", "tiny-t5": "block"}[folder.name]
        settings = settings | {"layers_pattern": blocks}
    made = made_by_peft.make(folder, tmp_path / "module", **settings)
    module = load_module(made)
    module.check(backbone)
    items = encoded(backbone)
    found = made_by_peft.ours(backbone, [module], items)
    assert_close(found[0], torch.cat(made_by_peft.logits(folder, made, items)), within=1e-4)


def test_uneven_ranks_and_scalings_are_stated_exactly(tiny_llama: Path, llama: Backbone, tmp_path: Path) -> None:
    uneven = factors({Q0: 2, Q1: 5, V0: 2}, {Q0: 0.3, Q1: 4 / 5**0.5, V0: 7 / 3}, llama)
    module = LoraModule.build(uneven, name="uneven", backbone=llama)
    module.check(llama)
    assert module.card.scaling is None
    assert module.card.rank == 5
    save_module(module, tmp_path / "uneven")
    again = load_module(tmp_path / "uneven")
    assert isinstance(again, LoraModule)
    assert {path: f.scaling for path, f in again.factors.items()} == {
        path: pytest.approx(f.scaling, rel=1e-15) for path, f in uneven.items()
    }
    items = encoded(llama)
    found = made_by_peft.ours(llama, [module], items)[0]
    assert_close(found, torch.cat(made_by_peft.logits(tiny_llama, tmp_path / "uneven", items)), within=1e-4)


@given(alpha=st.floats(1e-3, 1e3), rank=st.integers(1, 64))
def test_the_scaling_on_the_card_is_that_of_the_file(alpha: float, rank: int) -> None:
    # Without care 4/√3 · 3 / 3 is not 4/√3 in the last bit, and the card would contradict the file it lies beside.
    made = Factors(torch.zeros(rank, 2), torch.zeros(2, rank), alpha / rank**0.5)
    module = LoraModule.build({Q0: made}, name="m", backbone=None)
    assert module.config["lora_alpha"] / module.config["r"] == module.card.scaling == module.factors[Q0].scaling


# The backbone is left as it was


def test_a_layer_that_is_not_there_leaves_no_hook_behind(llama: Backbone) -> None:
    before = photograph(llama)
    made = factors({Q0: 1}, {Q0: 1.0}, llama)
    module = LoraModule.build({**made, "model.nowhere": made[Q0]}, name="m", backbone=None)
    with pytest.raises(AttributeError), LoraModule.stack([module], llama).attach(llama):
        pass
    assert_untouched(llama, before)


# Fresh modules


def test_a_fresh_module_changes_nothing_and_is_peft_s_own_start(backbone: Backbone) -> None:
    settings = LoraSettings(4, 8.0, TARGETS[backbone.name])
    module = LoraModule.fresh(backbone, settings, name="fresh", seed=1)
    module.check(backbone)
    items = encoded(backbone)
    with torch.inference_mode():
        bare = backbone.target_logits(backbone.batch(items, range(len(items))))
    assert_close(made_by_peft.ours(backbone, [module], items), bare, within=1e-5)
    for path, (a, b, scaling, _) in module.factors.items():
        inputs, outputs = layer_widths(backbone.model.get_submodule(path))
        assert (a.shape, b.shape, scaling) == ((4, inputs), (outputs, 4), 2.0)
        assert not b.any()
        # Uniform in ±1/√in has a standard deviation of 1/√(3·in).
        assert a.abs().max() <= inputs**-0.5
        assert a.std().item() == pytest.approx((3 * inputs) ** -0.5, rel=0.25)


def test_the_seed_decides(llama: Backbone) -> None:
    settings = LoraSettings()
    first, again, other = (LoraModule.fresh(llama, settings, name="m", seed=seed) for seed in (1, 1, 2))
    assert_same_parameters(first, again)
    with pytest.raises(AssertionError, match="parameter differs"):
        assert_same_parameters(first, other)
    assert_same_parameters(first.reset(seed=9), other.reset(seed=9))
    assert_same_parameters(other.reset(seed=1), first)


def test_a_rank_that_no_update_can_have(llama: Backbone) -> None:
    widths = dict(llama.model.named_modules())
    layers = [layer for path, layer in widths.items() if path.endswith(("q_proj", "v_proj"))]
    most = max(min(layer.in_features, layer.out_features) for layer in layers)
    assert LoraModule.fresh(llama, LoraSettings(rank=most), name="m", seed=0).card.rank == most
    said = (
        f"^LoRA rank {{}} is above {most}, the largest that an update of the layers that are adapted in tiny-llama can "
        f"have; lower it to {most} or less$"
    )
    for rank in (most + 1, 10**9):
        with pytest.raises(SettingError, match=said.format(rank)):
            LoraModule.fresh(llama, LoraSettings(rank=rank), name="m", seed=0)


def test_fresh_targets(backbone: Backbone) -> None:
    default = LoraModule.fresh(backbone, LoraSettings(), name="m", seed=0)
    ends = {path.rpartition(".")[2] for path in default.factors}
    assert ends == {"tiny-llama": {"q_proj", "v_proj"}, "tiny-gpt2": {"c_attn"}, "tiny-t5": {"q", "v"}}[backbone.name]
    with pytest.raises(
        SettingError, match=rf"{backbone.name} that can be adapted is called nope or no; name some of \w+, "
    ):
        LoraModule.fresh(backbone, LoraSettings(targets=("nope", "no")), name="m", seed=0)


# What does not fit


def build(llama: Backbone, ranks: Mapping[str, int], **changes: Any) -> LoraModule:
    made = LoraModule.build(factors(ranks, dict.fromkeys(ranks, 1.0), llama), name="m", backbone=None)
    return replace(made, **changes)


def test_a_layer_that_the_backbone_lacks(llama: Backbone) -> None:
    factor = factors({Q0: 2}, {Q0: 1.0}, llama)[Q0]
    module = LoraModule.build({Q0.replace("0", "7"): factor}, name="m", backbone=None)
    with pytest.raises(
        ModuleError, match=r"module 'm' has tensors for model\.layers\.7\.\S+, which tiny-llama does not have; load the"
    ):
        module.check(llama)


def test_a_layer_of_another_width(llama: Backbone) -> None:
    module = LoraModule.build({Q0: Factors(torch.ones(2, 64), torch.ones(32, 2), 1.0)}, name="m", backbone=None)
    with pytest.raises(ModuleError, match=rf"{Q0} is 64→32 in module 'm' but 32→32 in tiny-llama; load the backbone"):
        module.check(llama)


def test_a_module_of_fewer_layers(llama: Backbone) -> None:
    small = build(llama, {Q0: 2})
    small.check(llama)
    config = {**small.config, "target_modules": ["q_proj"]}
    with pytest.raises(
        ModuleError, match=rf"module 'm' names {Q1} in target_modules but holds no tensors for it; it was"
    ):
        replace(small, config=config).check(llama)
    replace(small, config={**config, "layers_to_transform": [0]}).check(llama)


def test_a_module_of_another_backbone(llama: Backbone) -> None:
    module = build(llama, {Q0: 2, Q1: 2})
    stated = module.card.model_copy(update={"backbone": llama.fingerprint.model_copy(update={"name": "alias"})})
    replace(module, card=stated).check(llama)
    other = Fingerprint(architecture="LlamaForCausalLM", shapes="s", weights="w" * 64, name="elsewhere")
    card: ModuleCard = module.card.model_copy(update={"backbone": other})
    with pytest.raises(
        ModuleError,
        match=r"module 'm' was made for another backbone \(elsewhere, weights wwwwwwwwwwww\) than tiny-llama "
        r"\(weights \w{12}\); load the backbone it was tuned on, or leave it out",
    ):
        replace(module, card=card).check(llama)


def test_a_configuration_against_itself(llama: Backbone) -> None:
    module = build(llama, {Q0: 2})
    broken = replace(module, config={**module.config, "target_modules": ["q_proj"], "layers_pattern": "layers"})
    with pytest.raises(ModuleError, match=r"the configuration of module 'm' contradicts itself: .*; correct it"):
        broken.check(llama)


def test_layers_of_the_other_half_do_not_fit(tiny_t5: Path, llama: Backbone) -> None:
    with pytest.raises(ModuleError, match="another backbone"):
        random_lora(load(tiny_t5), seed=1).check(llama)


# Layer vectors and alignment


def test_layer_vectors_by_hand() -> None:
    # Layer 0 holds q (A = [1 2], B = [3]ᵀ), layer 1 holds q (A = [4 5], B = [6]ᵀ): one row each, A before B.
    pairs = {0: ([[1.0, 2.0]], [[3.0]]), 1: ([[4.0, 5.0]], [[6.0]])}
    made = {f"layers.{number}.q": Factors(torch.tensor(a), torch.tensor(b), 1.0) for number, (a, b) in pairs.items()}
    module = LoraModule.build(made, name="m", backbone=None)
    (vectors,) = module.layer_vectors()
    assert vectors.tolist() == [[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]]


def test_each_stack_of_layers_has_its_own_vectors() -> None:
    # An encoder-decoder's decoder layers hold more (cross-attention): (1, 2) for the encoder, (1, 4) for the decoder,
    # and the embedding puts them side by side, the stacks and the paths in order of name.
    def pair(low: float) -> Factors:
        return Factors(torch.tensor([[low]]), torch.tensor([[low + 1]]), 1.0)

    made = {"encoder.block.0.q": pair(1.0), "decoder.block.0.q": pair(3.0), "decoder.block.0.cross.q": pair(5.0)}
    module = LoraModule.build(made, name="m", backbone=None)
    assert [vectors.tolist() for vectors in module.layer_vectors()] == [[[5.0, 6.0, 3.0, 4.0]], [[1.0, 2.0]]]
    assert tuned_parameters(module).tolist() == [5.0, 6.0, 3.0, 4.0, 1.0, 2.0]


def test_layers_are_ordered_by_number(llama: Backbone) -> None:
    made = {f"layers.{n}.q": Factors(torch.full((1, 1), n), torch.full((1, 1), n), 1.0) for n in (10, 9, 1)}
    (vectors,) = LoraModule.build(made, name="m", backbone=None).layer_vectors()
    assert vectors[:, 0].tolist() == [1, 9, 10]


def test_what_is_in_no_layer_has_no_part_in_the_vectors() -> None:
    pair = Factors(torch.ones(1, 1), torch.ones(1, 1), 1.0)
    module = LoraModule.build({"layers.0.q": pair, "lm_head": pair, "layers.1.q": pair}, name="m", backbone=None)
    (vectors,) = module.layer_vectors()
    assert vectors.tolist() == [[1.0, 1.0], [1.0, 1.0]]


def test_a_layer_without_a_parameter_has_a_gap_there(llama: Backbone) -> None:
    # Layer 0 holds A (2 rows) and B, layer 1 A (3 rows) and B: each rank has columns of its own.
    (vectors,) = build(llama, {Q0: 2, Q1: 3}).layer_vectors()
    assert vectors.isnan().sum(1).tolist() == [3 * (32 + 32), 2 * (32 + 32)]
    assert (vectors.isnan().sum(0) == 1).all()


def updates(module: LoraModule) -> dict[str, torch.Tensor]:
    return {path: f.scaling * (f.b.double() @ f.a.double()) for path, f in module.factors.items()}


def test_alignment_keeps_the_update(llama: Backbone, tmp_path: Path) -> None:
    one, other = random_lora(llama, seed=1, alpha=7.0), random_lora(llama, seed=2, alpha=3.0)
    aligned = one.aligned_to(other)
    assert isinstance(aligned, LoraModule)
    assert {f.scaling for f in aligned.factors.values()} == {1.0}
    for path, update in updates(one).items():
        assert_close(updates(aligned)[path], update, within=1e-6)
    save_module(aligned, tmp_path / "aligned")
    again = load_module(tmp_path / "aligned")
    assert isinstance(again, LoraModule)
    for path, update in updates(one).items():
        assert_close(updates(again)[path], update, within=1e-6)
    assert_same_parameters(one.aligned_to(one), one)


def test_alignment_with_unlike_modules_is_refused(llama: Backbone) -> None:
    one = random_lora(llama, seed=1, rank=2, name="two")
    with pytest.raises(
        MergeError, match=r"is 2×48 in 'two' and 3×48 in 'three'; merge them with space 'exact' or 'svd'"
    ):
        one.aligned_to(random_lora(llama, seed=1, rank=3, name="three"))
    with pytest.raises(MergeError, match=r"is missing in 'm' and 2×48 in 'two'"):
        build(llama, {Q0: 2}).aligned_to(one)


@pytest.mark.parametrize("stated", ["lora_only", "all"])
def test_trained_biases_that_are_not_there_are_refused(tiny_gpt2: Path, stated: str) -> None:
    # PEFT would go on with the backbone's own, without a word.
    backbone = load(tiny_gpt2)
    module = random_lora(backbone, seed=1)
    module = replace(module, config={**module.config, "bias": stated})
    with pytest.raises(ModuleError, match=rf"was trained with bias='{stated}' but holds no bias for transformer\."):
        module.check(backbone)


@pytest.mark.parametrize("stated", ["all-linear", None])
def test_targets_that_name_no_layer_are_refused(stated: str | None, llama: Backbone) -> None:
    module = random_lora(llama, seed=1)
    vague = replace(module, config={**module.config, "target_modules": stated})
    with pytest.raises(ModuleError, match=r"says target_modules .* which names no layers; save it again with PEFT"):
        vague.check(llama)
