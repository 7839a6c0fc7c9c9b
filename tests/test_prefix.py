"""Prefix tuning: attention against a naive reference, PEFT's order of layers, projections, and what is refused."""

import copy
import dataclasses
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PrefixTuningConfig
from safetensors.torch import load_file, save_file
from torch import Tensor

import made_by_peft
import virtual
from headstart.backbones import Backbone
from headstart.blending import merge
from headstart.errors import ModuleError, SettingError
from headstart.formats import PrefixLayout, prefix_layout
from headstart.formats.libraries.peft_prefix import FIELDS, PROJECTION
from headstart.kinds import PrefixModule, PrefixSettings, fresh_module, load_module, save_module
from headstart.kinds.prefix_projection import projected
from headstart.testing import tiny_backbone as suite_backbone
from naive import assert_close, assert_same_parameters, load
from virtual import LENGTH, encoded, from_peft, random_module

pytestmark = pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated:FutureWarning")

CONFIG = {
    "peft_type": "PREFIX_TUNING", "task_type": "CAUSAL_LM", "num_virtual_tokens": 3, "num_layers": 2,
    "num_attention_heads": 2, "token_dim": 6, "encoder_hidden_size": 4,
}  # fmt: skip
SHAPES: dict[str, tuple[int, ...]] = {"prompt_embeddings": (3, 24)}
PROJECTED = SHAPES | {
    PROJECTION["tokens"]: (3, 6), PROJECTION["inner"]: (4, 6), PROJECTION["inner_bias"]: (4,),
    PROJECTION["outer"]: (24, 4), PROJECTION["outer_bias"]: (24,),
}  # fmt: skip


def random_prefix(backbone: Backbone, *, seed: int = 1, **settings: Any) -> PrefixModule:
    module = random_module("prefix", backbone, seed=seed, **settings)
    assert isinstance(module, PrefixModule)
    return module


# What it computes


def attention(queries: Tensor, keys: Tensor, values: Tensor, *, past: int) -> Tensor:
    """Causal attention of one head in float64, query by query: (T, D), (past + T, D), (past + T, D) → (T, D)."""
    rows = []
    for place, query in enumerate(queries):
        seen = past + place + 1
        weights = [math.exp(float(query @ key) / math.sqrt(len(query))) for key in keys[:seen]]
        rows.append(sum(w * value for w, value in zip(weights, values[:seen], strict=True)) / sum(weights))
    return torch.stack(rows)


def rotated(x: Tensor, first: int) -> Tensor:
    """Rotary positions of (T, D) that begin at `first`, base 10,000, halves paired."""
    half = x.shape[1] // 2
    angles = torch.arange(first, first + len(x)).double().unsqueeze(1) / 10000 ** (torch.arange(half).double() / half)
    low, high = x[:, :half], x[:, half:]
    return torch.cat([low * angles.cos() - high * angles.sin(), high * angles.cos() + low * angles.sin()], dim=1)


@pytest.mark.parametrize("name", ["tiny_llama", "tiny_gpt2"])
def test_attention_over_a_prefix(name: str, request: pytest.FixtureRequest) -> None:
    # Keys and values of the prefix come first and are not rotated; the text's positions begin after them. In Llama
    # heads 0 and 1 read the first head of keys, heads 2 and 3 the second.
    backbone = load(request.getfixturevalue(name))
    modules = [random_prefix(backbone, seed=seed) for seed in (1, 2)]
    llama, ids = name == "tiny_llama", torch.tensor([[5, 9, 30, 12]])
    layers = backbone.model.model.layers if llama else backbone.model.transformer.h
    with torch.inference_mode(), PrefixModule.stack(modules, backbone).attach(backbone):
        for number, layer in enumerate(layers):
            unit = layer.self_attn if llama else layer.attn
            before, projection = captured(backbone, unit, unit.o_proj if llama else unit.c_proj, ids.repeat(2, 1))
            for index, module in enumerate(modules):
                x = before[index].double()
                if llama:
                    parts = [part.weight.double() @ x.T for part in (unit.q_proj, unit.k_proj, unit.v_proj)]
                    q, k, v = (part.T.view(4, -1, 8) for part in parts)
                else:
                    q, k, v = (x @ unit.c_attn.weight.double() + unit.c_attn.bias.double()).view(4, 3, 4, 8).unbind(1)
                stored = module.values["prefix"].double().view(LENGTH, 2, 2, -1, 8)[:, number]
                for head in range(4):
                    shared = head * stored.shape[2] // 4
                    query, key = q[:, head], k[:, shared]
                    if llama:
                        query, key = rotated(query, LENGTH), rotated(key, LENGTH)
                    keys = torch.cat([stored[:, 0, shared], key])
                    values = torch.cat([stored[:, 1, shared], v[:, shared]])
                    found = projection[index, :, head * 8 : head * 8 + 8]
                    assert_close(found, attention(query, keys, values, past=LENGTH), within=1e-5)


def captured(backbone: Backbone, unit: Any, projection: Any, ids: Tensor) -> tuple[Tensor, Tensor]:
    """What goes into an attention unit, and what goes into its output projection."""
    kept: list[Tensor] = []

    def keep(_: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        kept.append(kwargs["hidden_states"] if "hidden_states" in kwargs else args[0])

    handles = [layer.register_forward_pre_hook(keep, with_kwargs=True) for layer in (unit, projection)]
    backbone.model(input_ids=ids, use_cache=False)
    for handle in handles:
        handle.remove()
    return kept[0], kept[1]


@pytest.mark.parametrize(("layers", "pairs"), [(2, [0, 0]), (3, [0, 2, 1]), (4, [0, 2, 0, 2])])
def test_peft_s_order_in_a_decoder(layers: int, pairs: list[int], tmp_path: Path) -> None:
    # PEFT lays (k₀ v₀ k₁ v₁ …) out twice and cuts it into fours, of which self-attention gets the first two.
    from transformers import T5Config, T5ForConditionalGeneration

    assert PrefixLayout(None, 1, layers, 1, 1, True, None).pairs == pairs
    folder = tmp_path / "tiny-t5"
    backbone = virtual.tiny_backbone(
        T5ForConditionalGeneration, T5Config, folder, d_model=32, d_kv=8, d_ff=48, num_layers=layers, num_heads=4,
        dropout_rate=0.0, decoder_start_token_id=0, tie_word_embeddings=False,
    )  # fmt: skip
    made, items = virtual.make("prefix", folder, tmp_path / "made"), encoded(backbone)
    found = made_by_peft.ours(backbone, [load_module(made)], items)[0]
    assert_close(found, from_peft(folder, made, items), within=1e-4)


@pytest.mark.parametrize("projection", [False, True])
@pytest.mark.parametrize("family", ["bert", "roberta"])
def test_encoders_as_peft(family: str, projection: bool, tmp_path: Path) -> None:
    # The prefix lies in a cache, and the text's positions are counted after it.
    from peft import get_peft_model

    backbone = suite_backbone(family)
    config = PrefixTuningConfig(
        num_virtual_tokens=LENGTH, task_type="SEQ_CLS", prefix_projection=projection, encoder_hidden_size=7
    )
    model = get_peft_model(copy.deepcopy(backbone.model), config).eval()
    model.save_pretrained(tmp_path / "m")
    module = load_module(tmp_path / "m")
    module.check(backbone)
    ids = torch.tensor([[5, 9, 33, 200, 17], [7, 8, 9, backbone.pad_id, backbone.pad_id]])
    given = {"input_ids": ids, "attention_mask": (ids != backbone.pad_id).long()}
    with torch.inference_mode():
        expected, bare = model(**given).logits, backbone.model(**given).logits
        with type(module).stack([module], backbone).attach(backbone):
            assert_close(backbone.model(**given).logits, expected, within=1e-6)
    assert not torch.allclose(bare, expected, atol=0.1)


def test_layers_by_what_they_read(llama: Backbone) -> None:
    # One token, two layers of one head of size 1: k₀ v₀ k₁ v₁.
    shape = PrefixLayout(None, 1, 2, 1, 1, False, None)
    values = {"prefix": torch.tensor([[1.0, 2.0, 3.0, 4.0]])}
    module = dataclasses.replace(random_prefix(llama), shape=shape, values=values)
    assert [vectors.tolist() for vectors in module.layer_vectors()] == [[[1.0, 2.0], [3.0, 4.0]]]
    decoder = dataclasses.replace(module, shape=dataclasses.replace(shape, seq2seq=True))
    assert [vectors.tolist() for vectors in decoder.layer_vectors()] == [[[1.0, 2.0], [1.0, 2.0]]]
    two = dataclasses.replace(
        module, shape=dataclasses.replace(shape, length=2), values={"prefix": torch.arange(8.0).view(2, 4)}
    )
    assert two.layer_vectors()[0].tolist() == [[0.0, 4.0, 1.0, 5.0], [2.0, 6.0, 3.0, 7.0]]


# Projections


@pytest.mark.parametrize("name", ["tiny_llama", "tiny_t5"])
def test_peft_s_projection_is_saved_projected(name: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    folder = request.getfixturevalue(name)
    backbone = load(folder)
    made = virtual.make("prefix", folder, tmp_path / "made", prefix_projection=True, encoder_hidden_size=7)
    module, items = load_module(made), encoded(backbone)
    assert isinstance(module, PrefixModule)
    assert module.shape.bottleneck is None
    found = made_by_peft.ours(backbone, [module], items)[0]
    assert_close(found, from_peft(folder, made, items), within=3e-5)
    save_module(module, tmp_path / "saved")
    assert torch.equal(from_peft(folder, made, items), from_peft(folder, tmp_path / "saved", items))
    assert load_module(tmp_path / "saved").config["prefix_projection"] is False


def test_a_projection_by_hand() -> None:
    # tanh(2·3 - 6) = 0 and tanh(0·3 + ∞) = 1, so the prefix is 0·(1, 2) + 1·(10, 20) + (5, 5).
    values = {
        "tokens": torch.tensor([[3.0]]), "inner": torch.tensor([[2.0], [0.0]]), "inner_bias": torch.tensor([-6.0, 99]),
        "outer": torch.tensor([[1.0, 10.0], [2.0, 20.0]]), "outer_bias": torch.tensor([5.0, 5.0]),
    }  # fmt: skip
    assert projected(values).tolist() == [[15.0, 25.0]]


def test_a_projection_is_averaged_before_it(llama: Backbone, tmp_path: Path) -> None:
    pair = [random_prefix(llama, seed=seed, reparametrized=True, bottleneck=3) for seed in (1, 2)]
    merged = merge(pair, [0.5, 0.5]).module
    assert isinstance(merged, PrefixModule)
    assert merged.shape.bottleneck == 3
    average = {name: (value + pair[1].values[name]) / 2 for name, value in pair[0].values.items()}
    assert_close(merged.state_dict()["prompt_embeddings"], projected(average), within=1e-5)
    assert (
        merged.state_dict()["prompt_embeddings"] - (projected(pair[0].values) + projected(pair[1].values)) / 2
    ).any()
    save_module(merged, tmp_path / "merged")
    assert_same_parameters(load_module(tmp_path / "merged"), merged)


def test_a_projection_and_its_prefix_must_agree(llama: Backbone, tmp_path: Path) -> None:
    save_module(random_prefix(llama, reparametrized=True, bottleneck=3), tmp_path / "m")
    (tmp_path / "m" / "headstart.json").unlink()
    path = tmp_path / "m" / "adapter_model.safetensors"
    tensors = load_file(path)
    tensors["prompt_embeddings"][0, 0] += 1
    save_file(tensors, path)
    with pytest.raises(ModuleError, match=r"'prompt_embeddings' is not what the projection beside it gives; remove"):
        load_module(tmp_path / "m")


# Fresh prefixes, and what does not fit


def test_the_recipe_s_settings(llama: Backbone) -> None:
    plain = fresh_module("prefix", llama, {}, name="m", seed=0)
    assert isinstance(plain, PrefixModule)
    # 20 tokens, 2 layers, keys and values, 2 heads of 8
    assert (plain.values["prefix"].shape, plain.card.parameters) == ((20, 2 * 2 * 16), 20 * 64)
    assert plain.values["prefix"].std().item() == pytest.approx(1.0, rel=0.1)
    made = fresh_module("prefix", llama, {"reparametrized": True, "bottleneck": None}, name="m", seed=0)
    assert {name: tuple(value.shape) for name, value in made.parameters().items()} == {
        "tokens": (20, 16), "inner": (24, 16), "inner_bias": (24,), "outer": (64, 24), "outer_bias": (64,),
    }  # fmt: skip
    assert made.parameters()["outer"].abs().max() <= 24**-0.5
    assert made.card.parameters == sum(value.numel() for value in made.state_dict().values())
    with pytest.raises(SettingError, match="setting of kind 'prefix': bottleneck=0 must be above 0; correct it"):
        fresh_module("prefix", llama, {"reparametrized": True, "bottleneck": 0}, name="m", seed=0)


def test_other_keys_and_values(llama: Backbone) -> None:
    module = random_prefix(llama)
    for shape, words in (({"layers": 4}, "4 layers of 2 heads of 8"), ({"heads": 1, "head_dim": 16}, "of 1 heads of")):
        other = dataclasses.replace(module, shape=dataclasses.replace(module.shape, **shape))
        with pytest.raises(ModuleError, match=rf"'random-1' has a prefix for .*{words}.*, but tiny-llama caches 2 lay"):
            other.check(llama)


def test_caches_of_another_sort_are_refused() -> None:
    backbone = suite_backbone("modernbert")
    with pytest.raises(SettingError, match="'modernbert' does not cache plain keys and values of one shape in every"):
        PrefixModule.fresh(backbone, PrefixSettings(), name="m", seed=0)


def test_stacks_hold_one_shape(llama: Backbone, t5: Backbone) -> None:
    plain, narrow, wide = (
        random_prefix(llama), random_prefix(llama, reparametrized=True, bottleneck=2),
        random_prefix(llama, reparametrized=True, bottleneck=3),
    )  # fmt: skip
    assert len({plain.stack_key, narrow.stack_key, wide.stack_key, random_prefix(t5).stack_key}) == 4


# The format


def test_every_field_of_peft_is_known() -> None:
    from peft import PrefixTuningConfig

    fields = {field.name for field in dataclasses.fields(PrefixTuningConfig)}
    assert FIELDS.harmless | FIELDS.handled | FIELDS.refused.keys() == fields
    assert not FIELDS.harmless & FIELDS.handled
    assert not (FIELDS.harmless | FIELDS.handled) & FIELDS.refused.keys()


def test_a_layout() -> None:
    assert prefix_layout(CONFIG, SHAPES) == PrefixLayout(None, 3, 2, 2, 3, False, None)
    projection = CONFIG | {"prefix_projection": True}
    assert prefix_layout(projection, SHAPES).bottleneck is None
    assert prefix_layout(projection, PROJECTED).bottleneck == 4
    t5 = CONFIG | {"task_type": "SEQ_2_SEQ_LM", "num_transformer_submodules": 2}
    assert prefix_layout(t5, SHAPES).seq2seq


@pytest.mark.parametrize(
    ("changes", "shapes", "text"),
    [
        ({"modules_to_save": ["score"]}, SHAPES, "^field 'modules_to_save' is set: it carries whole layers"),
        (
            {"task_type": "TOKEN_CLS"},
            SHAPES,
            "field 'task_type' is 'TOKEN_CLS'; Headstart uses modules for CAUSAL_LM, SEQ_2_SEQ_LM, SEQ_CLS",
        ),
        ({"num_layers": None}, SHAPES, "field 'num_layers' is None, not a whole number above 0; save it again"),
        ({"num_attention_heads": 4}, SHAPES, "'token_dim' is 6, which num_attention_heads 4 does not divide; correct"),
        ({"num_transformer_submodules": 2}, SHAPES, "'num_transformer_submodules' is 2 for task type CAUSAL_LM, where"),
        ({"num_layers": 3}, SHAPES, r"'prompt_embeddings' has shape \(3, 24\) but the configuration says \(3, 36\)"),
        ({}, {}, "tensor 'prompt_embeddings' is missing; save it again"),
        ({}, SHAPES | {"base_model.classifier.bias": (2,)}, "'base_model.classifier.bias' is not part of a prefix"),
        ({}, PROJECTED, r"tensor 'prompt_encoder\.embedding\.weight' is not part of a prefix"),
        (
            {"prefix_projection": True},
            PROJECTED | {PROJECTION["inner"]: (5, 6)},
            r"'prompt_encoder\.transform\.0\.weight' has shape \(5, 6\) but the configuration says \(4, 6\)",
        ),
    ],
)
def test_what_is_refused(changes: dict[str, Any], shapes: dict[str, tuple[int, ...]], text: str) -> None:
    with pytest.raises(ModuleError, match=text):
        prefix_layout(CONFIG | changes, shapes)
