import dataclasses
import json
import math
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from handmade import LAYER, lora_config
from headstart.errors import ModuleError
from headstart.formats import lora_layout, read_module
from headstart.formats.libraries.peft_lora import FIELDS, LoraTarget

# PEFT 0.21 still asks transformers for the old name of a property.
pytestmark = pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated:FutureWarning")

STEM = f"base_model.model.{LAYER}"
SHAPES: dict[str, tuple[int, ...]] = {f"{STEM}.lora_A.weight": (2, 4), f"{STEM}.lora_B.weight": (3, 2)}


def tiny_llama() -> Any:
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=11,
            hidden_size=8,
            intermediate_size=12,
            num_hidden_layers=2,
            num_attention_heads=2,
            num_key_value_heads=1,
            attention_bias=True,
        )
    )


@pytest.fixture(scope="session")
def names_and_shapes() -> dict[str, tuple[int, int]]:
    """(in, out) of every linear layer of the tiny backbone, by name."""
    import torch

    return {
        name: (layer.in_features, layer.out_features)
        for name, layer in tiny_llama().named_modules()
        if isinstance(layer, torch.nn.Linear)
    }


def peft_model(**settings: Any) -> Any:
    import torch
    from peft import LoraConfig, get_peft_model

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # patterns that match nothing
        model = get_peft_model(tiny_llama(), LoraConfig(init_lora_weights=False, **settings))
    for name, parameter in model.named_parameters():
        if "lora_" in name or name.endswith(".bias"):
            torch.nn.init.normal_(parameter)
    return model


def saved(folder: Path, **settings: Any) -> tuple[Any, Path]:
    model = peft_model(**settings)
    model.save_pretrained(folder)
    return model, folder


def peft_layers(model: Any) -> dict[str, Any]:
    from peft.tuners.lora import LoraLayer

    return {
        name.removeprefix("base_model.model."): layer
        for name, layer in model.named_modules()
        if isinstance(layer, LoraLayer)
    }


def test_plain_layout_by_hand() -> None:
    # α/r = 4/2 = 2
    layout = lora_layout(lora_config(), SHAPES)
    a, b = SHAPES
    assert layout.targets == {LAYER: LoraTarget(a, b, rank=2, in_features=4, out_features=3, scaling=2.0)}
    assert layout.through_peft is None


def test_rank_stabilized_scaling_by_hand() -> None:
    # α/√r = 4/√2
    layout = lora_layout(lora_config(use_rslora=True), SHAPES)
    assert layout.targets[LAYER].scaling == pytest.approx(4 / math.sqrt(2))


def test_first_matching_pattern_wins() -> None:
    patterns = {"proj": 100, "self_attn.q_proj": 6, "q_proj": 8}  # "proj" is no whole part of the name
    assert lora_layout(lora_config(alpha_pattern=patterns), SHAPES).targets[LAYER].scaling == 3.0


PATTERNS = st.sampled_from(
    [
        "q_proj",
        "self_attn.v_proj",
        "proj",
        r"layers\.\d+\.mlp\..*",
        "^model.layers.1.self_attn.q_proj",
        ".*v_proj",
        r".*\.0\..*",
        "model.layers.0.mlp.down_proj",
        "q_proj|v_proj",
        "nothing",
        ".*",
    ]
)


@settings(max_examples=25)
@given(
    r=st.integers(1, 6),
    alpha=st.integers(1, 32),
    ranks=st.dictionaries(PATTERNS, st.integers(1, 6), max_size=4),
    alphas=st.dictionaries(PATTERNS, st.integers(1, 32), max_size=4),
    rslora=st.booleans(),
)
def test_ranks_and_scaling_are_those_of_peft(
    r: int, alpha: int, ranks: dict[str, int], alphas: dict[str, int], rslora: bool
) -> None:
    settings = {"r": r, "lora_alpha": alpha, "rank_pattern": ranks, "alpha_pattern": alphas, "use_rslora": rslora}
    targets = ["q_proj", "v_proj", "down_proj"]
    model = peft_model(target_modules=targets, **settings)
    shapes = {}
    for name, layer in peft_layers(model).items():
        shapes[f"base_model.model.{name}.lora_A.weight"] = tuple(layer.lora_A["default"].weight.shape)
        shapes[f"base_model.model.{name}.lora_B.weight"] = tuple(layer.lora_B["default"].weight.shape)
    layout = lora_layout({"target_modules": targets, **settings}, shapes)
    for name, layer in peft_layers(model).items():
        assert layout.targets[name].rank == layer.r["default"]
        assert layout.targets[name].scaling == layer.scaling["default"]
    assert layout.targets.keys() == peft_layers(model).keys()


NAMES = ["q_proj", "self_attn.v_proj", "model.layers.1.mlp.up_proj", "lm_head", "proj", "k_proj"]
REGEXES = [r".*\.(q|v)_proj", r"model\.layers\.1\..*", "q_proj", ".*"]


@settings(max_examples=60)
@given(
    targets=st.one_of(st.lists(st.sampled_from(NAMES), min_size=1, unique=True), st.sampled_from(REGEXES)),
    excluded=st.one_of(st.none(), st.lists(st.sampled_from(NAMES), unique=True), st.sampled_from(REGEXES)),
    wanted=st.sampled_from([None, 0, 1, [], [0], [0, 1], [7]]),
    pattern=st.sampled_from([None, "layers", ["h", "layers"], "h", []]),
)
def test_targets_are_those_of_peft(
    names_and_shapes: dict[str, tuple[int, int]], targets: Any, excluded: Any, wanted: Any, pattern: Any
) -> None:
    from types import SimpleNamespace

    from peft.tuners.tuners_utils import _ExcludedModule, check_target_module_exists

    config = {"target_modules": targets, "exclude_modules": excluded}
    config |= {"layers_to_transform": wanted, "layers_pattern": pattern}
    for name, (inner, outer) in names_and_shapes.items():
        verdict = check_target_module_exists(SimpleNamespace(target_parameters=None, **config), name)
        stem = f"base_model.model.{name}.lora_"
        shapes = {f"{stem}A.weight": (8, inner), f"{stem}B.weight": (outer, 8)}
        if verdict and not isinstance(verdict, _ExcludedModule):
            assert list(lora_layout(config, shapes).targets) == [name]
        else:
            with pytest.raises(ModuleError, match=rf"does not target layer '{name}'"):
                lora_layout(config, shapes)


def test_every_field_of_peft_has_one_treatment() -> None:
    from peft import LoraConfig

    tables = [FIELDS.harmless, FIELDS.handled, FIELDS.refused.keys()]
    assert sorted(field.name for field in dataclasses.fields(LoraConfig)) == sorted(
        field for table in tables for field in table
    )


def test_a_saved_module_computes_what_peft_computes(tmp_path: Path) -> None:
    model, folder = saved(
        tmp_path / "m", r=2, lora_alpha=6, rank_pattern={"v_proj": 3}, target_modules=["q_proj", "v_proj"]
    )
    module = read_module(folder)
    assert module.layout.through_peft is None
    for name, layer in peft_layers(model).items():
        target = module.layout.targets[name]
        update = target.scaling * module.tensors[target.b].numpy() @ module.tensors[target.a].numpy()
        np.testing.assert_allclose(update, layer.get_delta_weight("default").detach().numpy(), rtol=1e-5, atol=1e-6)
    assert len(module.layout.targets) == 4


@pytest.mark.parametrize(
    ("settings", "variant"),
    [
        ({"use_dora": True}, "DoRA"),
        ({"bias": "lora_only"}, "trained biases"),
        ({"bias": "lora_only", "use_dora": True}, "DoRA + trained biases"),
    ],
)
def test_variants_go_through_peft(tmp_path: Path, settings: dict[str, Any], variant: str) -> None:
    _, folder = saved(tmp_path / "m", target_modules=["q_proj", "v_proj"], **settings)
    assert read_module(folder).layout.through_peft == variant


def test_lora_bias_goes_through_peft(tmp_path: Path) -> None:
    from peft import LoraConfig, get_peft_model

    model = get_peft_model(tiny_llama(), LoraConfig(lora_bias=True, target_modules=["q_proj"]))
    with pytest.warns(UserWarning, match="invalid shape"):  # PEFT takes the bias for a broken factor
        model.save_pretrained(tmp_path / "m")
    assert read_module(tmp_path / "m").layout.through_peft == "LoRA biases"


def test_biases_of_other_layers_are_refused(tmp_path: Path) -> None:
    _, folder = saved(tmp_path / "m", target_modules=["q_proj"], bias="all")
    with pytest.raises(ModuleError, match=r"\w+_proj\.bias' is not part of a LoRA.*biases of other layers"):
        read_module(folder)


def test_a_bias_setting_without_saved_biases_is_plain() -> None:
    assert lora_layout(lora_config(bias="lora_only"), SHAPES).through_peft is None


def test_heads_of_peft_are_refused(tmp_path: Path) -> None:
    _, folder = saved(tmp_path / "heads", target_modules=["q_proj"], modules_to_save=["lm_head"])
    with pytest.raises(ModuleError, match="field 'modules_to_save' is set: it carries whole layers"):
        read_module(folder)


EMBEDDING = "model.embed_tokens"
EMBEDDED = {
    f"base_model.model.{EMBEDDING}.lora_embedding_A": (2, 11),
    f"base_model.model.{EMBEDDING}.lora_embedding_B": (8, 2),
}
COPY = f"base_model.model.{EMBEDDING}.base_layer.weight"


@pytest.mark.filterwarnings("ignore:Setting `save_embedding_layers` to `True`")
@pytest.mark.parametrize("copies", ["auto", False])
def test_embeddings_of_peft_are_targets(tmp_path: Path, copies: Any) -> None:
    model = peft_model(r=2, lora_alpha=6, target_modules=["q_proj", "embed_tokens"])
    model.save_pretrained(tmp_path / "m", save_embedding_layers=copies)
    layout = read_module(tmp_path / "m").layout
    a, b = EMBEDDED
    copy = COPY if copies == "auto" else None
    assert layout.targets[EMBEDDING] == LoraTarget(a, b, 2, 11, 8, 3.0, embedding=True, copy=copy)  # α/r = 6/2
    assert layout.widths[EMBEDDING] == (11, 8)
    assert layout.targets.keys() == peft_layers(model).keys()


@pytest.mark.parametrize(
    ("shapes", "message"),
    [
        ({next(iter(EMBEDDED)): (2, 11)}, r"lora_embedding_B' is missing; save it again"),
        ({**EMBEDDED, f"base_model.model.{EMBEDDING}.lora_A.weight": (2, 11)}, "those of an embedding and of a linear"),
        ({**EMBEDDED, COPY: (8, 11)}, r"base_layer.weight' has shape \(8, 11\), not \(11, 8\)"),
        ({COPY: (11, 8)}, "belongs to a layer without LoRA tensors"),
        ({f"{name}.default": shape for name, shape in EMBEDDED.items()}, "still carries its adapter's name"),
        ({next(iter(EMBEDDED)): (2, 11), list(EMBEDDED)[1]: (8, 3)}, "has rank 2 but .* has rank 3"),
    ],
)
def test_embeddings_that_are_none(shapes: dict[str, tuple[int, ...]], message: str) -> None:
    with pytest.raises(ModuleError, match=message):
        lora_layout(lora_config(target_modules=["embed_tokens"]), shapes)


def test_a_copy_beside_a_variant_is_refused() -> None:
    # PEFT would write it over the backbone's own weight while the module runs.
    shapes = {**EMBEDDED, COPY: (11, 8), f"base_model.model.{EMBEDDING}.lora_magnitude_vector": (8,)}
    with pytest.raises(ModuleError, match=r"beside a variant \(DoRA\), where it cannot be checked; .*layers=False"):
        lora_layout(lora_config(target_modules=["embed_tokens"], use_dora=True), shapes)


@pytest.mark.parametrize("init", ["pissa", "pissa_niter_4", "olora"])
def test_inits_that_change_the_backbone_are_refused(tmp_path: Path, init: str) -> None:
    import torch
    from peft import LoraConfig, get_peft_model

    before = tiny_llama()
    model = get_peft_model(tiny_llama(), LoraConfig(init_lora_weights=init, target_modules=["q_proj"], r=2))
    layer = peft_layers(model)[LAYER]
    # the reason for the refusal: PEFT itself leaves another backbone weight behind
    assert not torch.equal(layer.base_layer.weight, before.get_submodule(LAYER).weight)
    model.save_pretrained(tmp_path / "m")
    with pytest.raises(ModuleError, match=rf"field 'init_lora_weights' is '{init}'.*plain LoRA"):
        read_module(tmp_path / "m")


@pytest.mark.parametrize("init", [True, False, None, "gaussian", "eva", "orthogonal", "mica"])
def test_other_inits_are_harmless(init: Any) -> None:
    assert lora_layout(lora_config(init_lora_weights=init), SHAPES).targets


@pytest.mark.parametrize("field", sorted(FIELDS.refused))
def test_refused_fields_are_named_and_harmless_when_empty(field: str) -> None:
    lora_layout(lora_config(**{field: None}), SHAPES)
    with pytest.raises(ModuleError, match=rf"^field '{field}' is set: .* cannot use this module"):
        lora_layout(lora_config(**{field: ["x"]}), SHAPES)


def test_unknown_fields_are_refused_only_when_set() -> None:
    lora_layout(lora_config(use_magic=False, magic=None, spells={}), SHAPES)
    with pytest.raises(ModuleError, match="unknown field 'use_magic' is set to True"):
        lora_layout(lora_config(use_magic=True), SHAPES)


def without(name: str) -> dict[str, tuple[int, ...]]:
    return {key: shape for key, shape in SHAPES.items() if key != name}


A, B = SHAPES
WRONG_TENSORS = [
    (without(A), r"tensor '.*q_proj\.lora_A\.weight' is missing; save it again"),
    (without(B), r"tensor '.*q_proj\.lora_B\.weight' is missing"),
    (SHAPES | {B: (3, 5)}, r"lora_A\.weight' has rank 2 but '.*lora_B\.weight' has rank 5"),
    (SHAPES | {A: (3, 4), B: (3, 3)}, "has rank 3 but the configuration says 2; correct r or rank_pattern"),
    (SHAPES | {A: (2, 4, 1, 1)}, r"has shape \(2, 4, 1, 1\), not two dimensions"),
    (SHAPES | {B: (0, 2)}, r"has shape \(0, 2\), not two dimensions"),
    (SHAPES | {f"{STEM}.lora_C.weight": (1,)}, r"lora_C\.weight' is not part of a LoRA"),
    (SHAPES | {"lora_A.weight": (1,)}, r"tensor 'lora_A\.weight' does not begin with 'base_model\.model\.'"),
    (SHAPES | {f"{STEM}.lora_A.default.weight": (2, 4)}, "still carries its adapter's name"),
    (SHAPES | {"base_model.model.classifier.weight": (2, 4)}, "without saved heads"),
    (SHAPES | {f"{STEM}.lora_magnitude_vector": (3,)}, "field 'use_dora' is False but tensor .* is there"),
    (SHAPES | {f"{STEM}.base_layer.bias": (3,)}, "field 'bias' is 'none' but tensor .* is there"),
    (SHAPES | {"base_model.model.other.base_layer.bias": (3,)}, "belongs to a layer without LoRA tensors"),
]


@pytest.mark.parametrize(("shapes", "text"), WRONG_TENSORS)
def test_wrong_tensors_are_refused_by_name(shapes: dict[str, tuple[int, ...]], text: str) -> None:
    with pytest.raises(ModuleError, match=text):
        lora_layout(lora_config(), shapes)


WRONG_CONFIGS = [
    ({"use_dora": True}, "field 'use_dora' is True but tensor .*lora_magnitude_vector' is missing"),
    ({"bias": "some"}, "field 'bias' is 'some'"),
    ({"bias": None}, "field 'bias' is None"),
    ({"r": "2"}, "field 'r' is '2', not a number"),
    ({"r": True}, "field 'r' is True, not a number"),
    ({"lora_alpha": float("nan")}, "field 'lora_alpha' is nan, not a number"),
    ({"lora_alpha": None}, "field 'lora_alpha' is None, not a number"),
    ({"alpha_pattern": {"q_proj": "x"}}, "field 'alpha_pattern' at 'q_proj' is 'x'"),
    ({"rank_pattern": ["q_proj"]}, "field 'rank_pattern' is not an object"),
    ({"rank_pattern": {"(": 2}}, "the configuration is malformed: "),
    ({"target_modules": "["}, "is malformed"),
    ({"target_modules": [3]}, r"\[3\] is not a list of names"),
    ({"target_modules": ["v_proj"]}, "does not target layer .*PEFT would ignore tensor"),
    ({"exclude_modules": ["q_proj"]}, "does not target layer"),
]


@pytest.mark.parametrize(("changes", "text"), WRONG_CONFIGS)
def test_wrong_configurations_are_refused_by_field(changes: dict[str, Any], text: str) -> None:
    with pytest.raises(ModuleError, match=text):
        lora_layout(lora_config(**changes), SHAPES)


def test_variant_tensors_have_the_layers_width() -> None:
    shapes = SHAPES | {f"{STEM}.lora_magnitude_vector": (4,)}
    with pytest.raises(ModuleError, match=r"lora_magnitude_vector' has shape \(4,\), not \(3,\)"):
        lora_layout(lora_config(use_dora=True), shapes)


def test_a_configuration_survives_json() -> None:
    assert lora_layout(json.loads(json.dumps(lora_config())), SHAPES).targets
