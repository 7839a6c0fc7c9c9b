"""BitFit: the stack against a float64 reference and a plain PyTorch loop, its folders, and what is refused."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import made_by_peft
from headstart.backbones import Backbone
from headstart.blending import Blend, merge
from headstart.blending.ensemble import ensemble
from headstart.embeddings import tuned_parameters
from headstart.errors import MergeError, ModuleError, SettingError
from headstart.evaluating.evaluate_many import evaluate_many
from headstart.formats import bitfit_layout
from headstart.hub import Hub
from headstart.kinds import BitFitModule, BitFitSettings, load_module, save_module
from headstart.kinds.bitfit import bias_terms
from headstart.tuning.tune import text_format_of, tune
from naive import (
    REVIEWS,
    assert_close,
    assert_same_parameters,
    assert_untouched,
    encoded,
    load,
    photograph,
    plain_logits,
)
from replaced import Replaced
from test_tuning import RECIPE, TASK

BITFIT = RECIPE.change(kind="bitfit")
ATTN0, NORM0 = "transformer.h.0.attn.c_attn", "transformer.h.0.ln_1"


@pytest.fixture(scope="module")
def bart(tiny_t5: Path) -> Backbone:
    """A random encoder-decoder with biases everywhere, on the tokenizer of the tiny T5."""
    from transformers import BartConfig, BartForConditionalGeneration

    tokenizer = load(tiny_t5).tokenizer
    ids = {"pad_token_id": tokenizer.pad_token_id, "eos_token_id": tokenizer.eos_token_id, "bos_token_id": None}
    sizes = {f"{half}_{name}": value for half in ("encoder", "decoder") for name, value in SIZES.items()}
    config = BartConfig(
        vocab_size=len(tokenizer), d_model=32, max_position_embeddings=256, dropout=0.0, forced_eos_token_id=None,
        decoder_start_token_id=tokenizer.pad_token_id, **sizes, **ids,
    )  # fmt: skip
    torch.manual_seed(0)
    model = BartForConditionalGeneration(config).eval()
    with torch.no_grad():
        for name, value in model.named_parameters():
            value.normal_(mean=1.0 if value.ndim == 1 and name.endswith("weight") else 0.0, std=0.2)
    return Backbone(model, tokenizer, name="tiny-bart")


SIZES = {"layers": 2, "attention_heads": 4, "ffn_dim": 48}


@pytest.fixture(params=["gpt2", "bart"])
def backbone(request: pytest.FixtureRequest) -> Backbone:
    found: Backbone = request.getfixturevalue(request.param)
    return found


def random_bitfit(
    backbone: Backbone, *, seed: int, targets: tuple[str, ...] | None = None, name: str = ""
) -> BitFitModule:
    """The backbone's bias terms with noise of standard deviation 0.3, so that every logit changes."""
    fresh = BitFitModule.fresh(backbone, BitFitSettings(targets), name=name or f"random-{seed}", seed=seed)
    generator = torch.Generator().manual_seed(seed)
    drawn = {key: v + 0.3 * torch.randn(v.shape, generator=generator) for key, v in fresh.parameters().items()}
    return fresh.with_parameters(drawn)


def own(_: Any, leaves: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """A BitFit module's parameters are the model's own parameters by name."""
    return dict(leaves)


# What it computes


def test_one_layer_by_hand(gpt2: Backbone) -> None:
    # A bias that is 2 above the backbone's at output 0 raises that number by 2 and leaves the others alone.
    fresh = BitFitModule.fresh(gpt2, BitFitSettings(), name="m", seed=0)
    parameters = fresh.parameters()
    parameters[f"{ATTN0}.bias"][0] += 2
    layer, x = gpt2.model.get_submodule(ATTN0), torch.randn(1, 4, 32)
    with torch.inference_mode():
        before = layer(x)
        with BitFitModule.stack([fresh.with_parameters(parameters)], gpt2).attach(gpt2):
            found = layer(x)
    assert_close(found[..., 0], before[..., 0] + 2, within=1e-6)
    assert torch.equal(found[..., 1:], before[..., 1:])


def test_the_whole_backbone_against_float64_with_these_biases(backbone: Backbone) -> None:
    items = encoded(backbone)
    modules = [random_bitfit(backbone, seed=seed) for seed in (1, 2)]
    found = made_by_peft.ours(backbone, modules, items)
    for row, module in zip(found, modules, strict=True):
        assert_close(row, Replaced(backbone, module, own).logits(items), within=2e-4)
    assert not torch.allclose(found[0], found[1], atol=0.1), "the modules must differ for this to say anything"


def test_bfloat16_does_not_round_the_change_away(tiny_gpt2: Path) -> None:
    # 4 + 2⁻⁸ is no bfloat16 number, but it is what the bias says; where the layer adds −4 to it the sum is 2⁻⁸.
    backbone = load(tiny_gpt2, "bfloat16")
    layer = backbone.model.get_submodule(ATTN0)
    module = BitFitModule.fresh(backbone, BitFitSettings(("c_attn",)), name="m", seed=0)
    parameters = {name: torch.full_like(value, 4 + 2**-8) for name, value in module.parameters().items()}
    kept = layer.weight.clone(), layer.bias.clone()
    layer.bias.fill_(4.0)
    layer.weight.zero_()
    layer.weight[0] = -4.0
    x = torch.zeros(1, 1, 32, dtype=torch.bfloat16)
    x[..., 0] = 1.0
    with torch.inference_mode(), BitFitModule.stack([module.with_parameters(parameters)], backbone).attach(backbone):
        found = layer(x)
    layer.weight.copy_(kept[0])
    layer.bias.copy_(kept[1])
    assert set(found.flatten().tolist()) == {2**-8}


# Folders


def test_peft_refuses_the_folder_by_its_type(gpt2: Backbone, tiny_gpt2: Path, tmp_path: Path) -> None:
    from peft import PeftModel

    save_module(random_bitfit(gpt2, seed=3), tmp_path / "saved")
    with pytest.raises(KeyError, match="BITFIT"):
        PeftModel.from_pretrained(made_by_peft.fresh_model(tiny_gpt2), tmp_path / "saved")


@pytest.mark.parametrize(
    ("config", "name", "shape", "message"),
    [
        ({"novelty": 2}, None, None, "unknown field 'novelty' is set to 2 and may change what the module computes"),
        ({"target_modules": []}, None, None, r"'target_modules' is \[\], not a list of layer names, or null for every"),
        ({"target_modules": "c_.*"}, None, None, r"'target_modules' is 'c_\.\*', not a list of layer names, or null"),
        ({"target_modules": ["ln_1"]}, None, None, f"does not target layer '{ATTN0}', which has tensor '.*'; correct"),
        ({}, f"{ATTN0}.bias", (3,), f"'{ATTN0}.bias' is not named 'base_model.model.<layer>.bias', so it is not a"),
        ({}, f"base_model.model.{ATTN0}.weight", (3,), "is not named 'base_model.model.<layer>.bias', so it is no"),
        ({}, f"base_model.model.{NORM0}.bias", (3, 1), r"has shape \(3, 1\), not one dimension; save the bias itself"),
        ({}, f"base_model.model.{NORM0}.bias", (0,), r"has shape \(0,\), not one dimension; save the bias itself"),
    ],
)
def test_folders_that_are_refused(config: dict[str, Any], name: str | None, shape: Any, message: str) -> None:
    plain = {"peft_type": "BITFIT", "target_modules": None}
    shapes = {f"base_model.model.{ATTN0}.bias": (3,)}
    bitfit_layout(plain, shapes)
    if name:
        shapes[name] = shape
    with pytest.raises(ModuleError, match=message):
        bitfit_layout(plain | config, shapes)


# The backbone is left as it was


def test_a_layer_that_is_not_there_leaves_no_hook_behind(gpt2: Backbone) -> None:
    before = photograph(gpt2)
    module = random_bitfit(gpt2, seed=1)
    lost = replace(module, values={**module.values, "transformer.nowhere.bias": torch.ones(3)})
    with pytest.raises(AttributeError), BitFitModule.stack([lost], gpt2).attach(gpt2):
        pass
    assert_untouched(gpt2, before)


# Fresh modules


def test_a_fresh_module_is_the_backbone_s_own_biases(backbone: Backbone) -> None:
    module = BitFitModule.fresh(backbone, BitFitSettings(), name="fresh", seed=1)
    module.check(backbone)
    items = encoded(backbone)
    with torch.inference_mode():
        bare = backbone.target_logits(backbone.batch(items, range(len(items))))
    assert torch.equal(made_by_peft.ours(backbone, [module], items), bare)
    state = {name: value for name, value in backbone.model.named_parameters() if name.endswith(".bias")}
    assert {name: value.tolist() for name, value in module.parameters().items()} == {
        name: value.tolist() for name, value in state.items()
    }
    tuned = random_bitfit(backbone, seed=1)
    assert_same_parameters(tuned.untuned(backbone, seed=5), module)
    with pytest.raises(
        ModuleError, match="'random-1' is a bitfit module, which begins from its backbone's biases; use"
    ):
        tuned.reset(seed=5)


def test_fresh_targets(gpt2: Backbone) -> None:
    chosen = BitFitModule.fresh(gpt2, BitFitSettings(("mlp.c_fc", "ln_2")), name="m", seed=0)
    assert {path.rpartition(".")[2] for path in chosen.biases} == {"c_fc", "ln_2"}
    assert chosen.config["target_modules"] == ["ln_2", "mlp.c_fc"]
    chosen.check(gpt2)
    with pytest.raises(
        SettingError,
        match=rf"no layer of tiny-gpt2 with a bias is called nope; name layers such as {NORM0}, {ATTN0}, \S+ with t",
    ):
        BitFitModule.fresh(gpt2, BitFitSettings(("nope",)), name="m", seed=0)


@pytest.mark.parametrize("name", ["tiny_llama", "tiny_t5"])
def test_a_backbone_without_biases(name: str, request: pytest.FixtureRequest) -> None:
    backbone = load(request.getfixturevalue(name))
    with pytest.raises(
        SettingError,
        match=rf"{backbone.name} has no bias terms: none of its linear layers and norms has any, unlike GPT-2 with "
        rf"{ATTN0}\.bias and {NORM0}\.bias; tune another kind, such as lora or ia3",
    ):
        tune(TASK, backbone, recipe=BITFIT)


def test_biases_that_no_known_layer_adds(gpt2: Backbone, monkeypatch: pytest.MonkeyPatch) -> None:
    module = random_bitfit(gpt2, seed=1, name="m")
    some = random_bitfit(gpt2, seed=1, targets=("c_attn",))
    monkeypatch.setattr(gpt2.model, "odd_bias", torch.nn.Parameter(torch.zeros(3)), raising=False)
    with pytest.raises(SettingError, match="no linear layer or LayerNorm, such as odd_bias, and cannot be tuned; name"):
        BitFitModule.fresh(gpt2, BitFitSettings(), name="m", seed=0)
    BitFitModule.fresh(gpt2, BitFitSettings(("c_attn",)), name="m", seed=0).check(gpt2)
    some.check(gpt2)
    with pytest.raises(ModuleError, match="'m' stands for every bias but holds none for odd_bias; it was made for"):
        module.check(gpt2)


# What does not fit


def test_a_module_that_does_not_fit(gpt2: Backbone, llama: Backbone) -> None:
    module = random_bitfit(gpt2, seed=1, name="m")
    far = {name.replace(".1.", ".7."): bias for name, bias in module.values.items()}
    with pytest.raises(
        ModuleError, match=r"'m' has a bias for transformer\.h\.7\.\S+, which in tiny-gpt2 does not exi"
    ):
        replace(module, values=far).check(gpt2)
    with pytest.raises(
        ModuleError, match=rf"the bias of {ATTN0} has 7 numbers in module 'm' but 96 in tiny-gpt2; load"
    ):
        replace(module, values={**module.values, f"{ATTN0}.bias": torch.ones(7)}).check(gpt2)
    few = {name: bias for name, bias in module.values.items() if ".1." not in name}
    with pytest.raises(ModuleError, match=r"'m' stands for every bias but holds none for transformer\.h\.1\.ln_1; it"):
        replace(module, values=few).check(gpt2)
    some = random_bitfit(gpt2, seed=1, targets=("ln_1",), name="m")
    one = {f"{NORM0}.bias": some.biases[NORM0]}
    with pytest.raises(
        ModuleError, match=r"'m' stands for its target_modules but holds none for transformer\.h\.1\.ln"
    ):
        replace(some, values=one).check(gpt2)
    q0 = "model.layers.0.self_attn.q_proj"
    card = module.card.model_copy(update={"backbone": None})
    with pytest.raises(ModuleError, match=rf"'m' has a bias for {q0}, which in tiny-llama has none; load the backbone"):
        replace(module, values={f"{q0}.bias": torch.ones(32)}, card=card).check(llama)
    with pytest.raises(ModuleError, match="another backbone"):
        module.check(llama)


# Embeddings and merging


def test_layer_vectors_by_hand(gpt2: Backbone) -> None:
    # Layer 0 holds fc = [1 2] and ln = [3], layer 1 fc = [5 6] and ln = [7]; the last norm takes no part.
    held = {
        "h.0.ln": [3.0], "h.0.fc": [1.0, 2.0], "ln_f": [9.0], "h.1.ln": [7.0], "h.1.fc": [5.0, 6.0],
    }  # fmt: skip
    named = {f"transformer.{path}.bias": torch.tensor(values) for path, values in held.items()}
    module = replace(random_bitfit(gpt2, seed=1), values=named)
    assert [vectors.tolist() for vectors in module.layer_vectors()] == [[[1.0, 2.0, 3.0], [5.0, 6.0, 7.0]]]
    assert tuned_parameters(module).tolist() == [3.0, 4.0, 5.0]
    with pytest.raises(ModuleError, match="'random-1' tunes no numbered layer, so it has no task embedding"):
        replace(module, values={"transformer.ln_f.bias": torch.ones(3)}).layer_vectors()


def test_bert_base_has_the_paper_s_dimension(gpt2: Backbone) -> None:
    # Zhou et al., 2022: per layer Q, K, V, output 4·768, two LayerNorms 2·768, feed-forward 3072 + 768 = 8 448.
    from transformers import BertConfig, BertModel

    with torch.device("meta"):
        layers, others = bias_terms(BertModel(BertConfig()))
    assert others == []
    biases = {f"{path}.bias": torch.zeros(layer.bias.shape) for path, layer in layers.items()}
    module = replace(random_bitfit(gpt2, seed=1), values=biases)
    assert [tuple(vectors.shape) for vectors in module.layer_vectors()] == [(12, 8448)]
    assert tuned_parameters(module).shape == (8448,)


def test_an_encoder_decoder_has_a_row_for_each_half(bart: Backbone) -> None:
    # Encoder: 4·32 attention, 2·32 norms, 48 + 32; decoder: another 4·32 and a norm for cross-attention.
    shapes = [tuple(vectors.shape) for vectors in random_bitfit(bart, seed=1).layer_vectors()]
    assert shapes == [(2, 432), (2, 272)]


def test_merging(gpt2: Backbone, tmp_path: Path) -> None:
    one, other = (random_bitfit(gpt2, seed=seed) for seed in (1, 2))
    assert_same_parameters(merge([one, other], [1.0, 0.0]).module, one)
    merged = merge([one, other], [0.25, 0.75], name="both")
    assert merged.error is None
    # A bias of 2 and one of 4 at weights ¼ and ¾ make 3½.
    name = f"{ATTN0}.bias"
    two, four = (
        m.with_parameters({**m.parameters(), name: torch.full((96,), v)}) for m, v in ((one, 2.0), (other, 4.0))
    )
    assert set(merge([two, four], [0.25, 0.75]).module.parameters()[name].tolist()) == {3.5}
    save_module(merged.module, tmp_path / "both")
    again = load_module(tmp_path / "both")
    again.check(gpt2)
    assert_same_parameters(again, merged.module)
    few = replace(one, values={f"{NORM0}.bias": one.biases[NORM0]}, card=one.card.model_copy(update={"name": "few"}))
    with pytest.raises(
        MergeError, match=r"is missing in 'few' and 96 in 'random-1'; leave one out \(--exclude few, or Hub"
    ):
        few.aligned_to(one)


# The whole road


def test_tuning_learns_and_leaves_the_backbone_alone(backbone: Backbone, tmp_path: Path) -> None:
    before = photograph(backbone)
    tuned = tune(TASK, backbone, recipe=BITFIT.change(max_steps=24, eval_every=8, lr=2e-2, select="loss"))
    assert_untouched(backbone, before)
    assert min(point.dev_loss for point in tuned.curve) < 0.7 * tuned.curve[0].dev_loss
    save_module(tuned.module, tmp_path / "tuned")
    again = load_module(tmp_path / "tuned")
    assert_same_parameters(again, tuned.module)
    (found,) = evaluate_many([again], TASK.dev, backbone, metric="ACC", text_format=text_format_of(BITFIT))
    assert found.loss == pytest.approx(tuned.best.dev_loss, abs=1e-5)


def test_tuning_is_a_plain_loop_over_the_model_s_biases(gpt2: Backbone, tiny_gpt2: Path) -> None:
    recipe = BITFIT.change(
        lr=1e-3, batch_size=len(REVIEWS), max_steps=4, eval_every=4, schedule="constant", warmup_steps=0,
        weight_decay=0.01, clip=0.5, select="loss",
    )  # fmt: skip
    tuned = tune(TASK, gpt2, recipe=recipe)
    assert tuned.best.step == 4, "the state compared must be the last one"

    model = made_by_peft.fresh_model(tiny_gpt2).requires_grad_(False)
    biases = {name: value.requires_grad_(True) for name, value in model.named_parameters() if name.endswith(".bias")}
    began = {name: value.detach().clone() for name, value in biases.items()}
    optimizer = torch.optim.AdamW(biases.values(), lr=1e-3, weight_decay=0.01)
    items = gpt2.encode([(row.input, row.target) for row in TASK.train], text_format_of(recipe))
    for _ in range(4):
        for item in items:
            logits = plain_logits(model, item)
            loss = torch.nn.functional.cross_entropy(logits, torch.tensor(item.target), reduction="sum")
            (loss / sum(len(item.target) for item in items)).backward()
        torch.nn.utils.clip_grad_norm_(biases.values(), 0.5)
        optimizer.step()
        optimizer.zero_grad()
    found = tuned.module.parameters()
    assert found.keys() == biases.keys()
    for name, value in biases.items():
        # c_attn's bias of the keys has no gradient but rounding (softmax does not see it), which Adam blows up.
        wanted, got = value.detach().clone(), found[name].clone()
        if name.endswith("c_attn.bias"):
            wanted[32:64] = got[32:64] = 0
        assert_close(got, wanted, within=1e-5)
    assert max((value.detach() - began[name]).abs().max().item() for name, value in biases.items()) > 1e-3


@pytest.mark.parametrize("indicator", ["cosine", "grand", "kl", "tupate"])
def test_a_hub_of_them_is_ranked_and_blended(gpt2: Backbone, tmp_path: Path, indicator: str) -> None:
    hub = Hub.create(tmp_path / "hub")
    for seed in range(3):
        save_module(random_bitfit(gpt2, seed=seed), tmp_path / f"m{seed}")
        hub.add(tmp_path / f"m{seed}")
    blend = Blend(indicator=indicator, temperature=1.0)
    start = ensemble(TASK, hub, gpt2, blend=blend, recipe=BITFIT.change(max_steps=4))
    assert isinstance(start.module, BitFitModule)
    assert 1 < start.merged.effective <= 3
    save_module(start.module, tmp_path / "start")
    assert_same_parameters(load_module(tmp_path / "start"), start.module)
