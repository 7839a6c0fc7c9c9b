"""Every field of PEFT's LoraConfig: exact beside PEFT itself, through PEFT, without effect, or refused by name."""

import dataclasses
import json
import re
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from peft import LoraConfig

import made_by_peft
from headstart.backbones import TextFormat
from headstart.errors import ModuleError
from headstart.formats.libraries.peft_lora import FIELDS
from headstart.kinds import LoraModule, PeftModule, load_module
from naive import REVIEWS, assert_close, load

pytestmark = [
    pytest.mark.filterwarnings("ignore:Setting `save_embedding_layers` to `True`"),
    pytest.mark.filterwarnings("ignore:Model has `tie_word_embeddings=True`"),
    pytest.mark.filterwarnings("ignore:.lora_bias=True. was passed"),
    pytest.mark.filterwarnings("ignore:Adapter 'default'. .* have invalid shape"),
]


class Computed(NamedTuple):
    """PEFT makes such a module on this backbone, and Headstart computes what PEFT does."""

    settings: dict[str, Any]
    backbone: str = "tiny_llama"
    through_peft: bool = False
    field: str = ""
    """Where one case stands for several values of a field: what tells them apart."""


EXACT = {
    "r": [Computed({"r": 5})],
    "lora_alpha": [Computed({"lora_alpha": 7})],
    "use_rslora": [Computed({"use_rslora": True})],
    "rank_pattern": [Computed({"rank_pattern": {r"layers\.1\.self_attn\.q_proj": 2, "down_proj": 4}})],
    "alpha_pattern": [Computed({"alpha_pattern": {"^model.layers.0.self_attn.q_proj": 11}, "use_rslora": True})],
    "target_modules": [
        Computed({"target_modules": "all-linear"}, field="all linear layers"),
        Computed({"target_modules": "all-linear"}, "tiny_gpt2", field="all Conv1D layers"),
        Computed({"target_modules": r".*\.(q|v)_proj"}, field="regular expression"),
        Computed({"target_modules": ["model.layers.1.mlp.up_proj", "k_proj"]}, field="whole path and name"),
        Computed({"target_modules": ["embed_tokens", "lm_head"]}, field="embedding and head"),
        Computed({"target_modules": r".*(wte|c_attn)"}, "tiny_gpt2", field="tied embedding by expression"),
        Computed({"target_modules": ["embed_tokens", "lm_head", "wi_0"]}, "tiny_t5", field="T5"),
        Computed({"target_modules": None}, field="PEFT's own choice"),
    ],
    "exclude_modules": [
        Computed({"target_modules": ["q_proj", "v_proj"], "exclude_modules": r".*layers\.0\.self_attn\.q_proj"}),
        Computed({"target_modules": "all-linear", "exclude_modules": ["down_proj", "lm_head"]}, field="names"),
    ],
    "layers_to_transform": [
        Computed({"layers_to_transform": 1}, field="a number"),
        Computed({"target_modules": ["c_attn"], "layers_to_transform": [0]}, "tiny_gpt2", field="a list"),
    ],
    "layers_pattern": [Computed({"layers_to_transform": [0], "layers_pattern": "layers"})],
    "fan_in_fan_out": [Computed({"fan_in_fan_out": True, "target_modules": ["c_attn", "mlp.c_proj"]}, "tiny_gpt2")],
    "init_lora_weights": [
        Computed({"init_lora_weights": init, "r": 4}, field=str(init))
        for init in (True, False, "gaussian", "orthogonal", "mica")
    ],
    "lora_dropout": [Computed({"lora_dropout": 0.5})],
    "use_dora": [Computed({"use_dora": True}, through_peft=True)],
    "lora_bias": [Computed({"lora_bias": True, "target_modules": ["c_attn"]}, "tiny_gpt2", through_peft=True)],
    "bias": [Computed({"bias": "lora_only", "target_modules": ["c_attn"]}, "tiny_gpt2", through_peft=True)],
}  # fmt: skip
"""By field: settings under which the function is PEFT's."""

SILENT = {
    "task_type": "CAUSAL_LM", "peft_type": "LORA", "auto_mapping": {"base_model_class": "LlamaForCausalLM"},
    "peft_version": "0.21.0", "base_model_name_or_path": "somewhere", "revision": "main", "inference_mode": False,
    "loftq_config": {"loftq_bits": 4}, "eva_config": {"rho": 2.0}, "corda_config": {"corda_method": "kpm"},
    "lora_ga_config": {"direction": "ArB2r"}, "megatron_core": "megatron.core", "qalora_group_size": 16,
    "runtime_config": {"ephemeral_gpu_offload": False},
}  # fmt: skip
"""Fields that say how a module began or was trained, or who made it: any value is read as plain."""

SET = {
    "modules_to_save": ["lm_head"], "layer_replication": [[0, 2]], "trainable_token_indices": [1, 2],
    "alora_invocation_tokens": [3], "target_parameters": ["mlp.weight"], "use_qalora": True,
    "megatron_config": {"a": 1}, "use_bdlora": {"nblocks": 2}, "arrow_config": {"top_k": 1},
    "ensure_weight_tying": True, "kasa_config": {"beta": 1.0}, "velora_config": {"rank": 1},
    "monteclora_config": {"samples": 2},
}  # fmt: skip
"""Fields that change the function in a way that is not computed here."""

COMPUTED = [
    pytest.param(case, id=f"{name}{f': {case.field}' if case.field else ''}")
    for name, cases in EXACT.items()
    for case in cases
]


def test_every_field_of_peft_is_in_one_table() -> None:
    fields = [field.name for field in dataclasses.fields(LoraConfig)]
    assert sorted([*EXACT, *SILENT, *SET]) == sorted(fields)
    assert SET.keys() == FIELDS.refused.keys()


@pytest.mark.parametrize("case", COMPUTED)
def test_peft_computes_the_same(case: Computed, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    folder = request.getfixturevalue(case.backbone)
    backbone = load(folder)
    made = made_by_peft.make(folder, tmp_path / "m", **case.settings)
    module = load_module(made)
    assert type(module) is (PeftModule if case.through_peft else LoraModule)
    module.check(backbone)
    items = backbone.encode([(example.input, example.target) for example in REVIEWS[:3]], TextFormat())
    found = made_by_peft.ours(backbone, [module], items)[0]
    assert_close(found, torch.cat(made_by_peft.logits(folder, made, items)), within=1e-4)
    with torch.inference_mode():
        bare = backbone.target_logits(backbone.batch(items, range(len(items))))[0]
    assert (found - bare).abs().max() > 0.05, "the module must matter"


def with_field(folder: Path, target: Path, field: str, value: object) -> Path:
    """A plain module of PEFT's whose configuration says something more."""
    made = made_by_peft.make(folder, target)
    path = made / "adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), field: value}))
    return made


@pytest.mark.parametrize("field", SILENT)
def test_a_field_without_effect_leaves_the_module_as_it_is(field: str, tiny_llama: Path, tmp_path: Path) -> None:
    plain = load_module(made_by_peft.make(tiny_llama, tmp_path / "plain"))
    module = load_module(with_field(tiny_llama, tmp_path / "m", field, SILENT[field]))
    module.check(load(tiny_llama))
    assert isinstance(module, LoraModule)
    assert isinstance(plain, LoraModule)
    assert {path: f.scaling for path, f in module.factors.items()} == {p: f.scaling for p, f in plain.factors.items()}


@pytest.mark.parametrize("field", SET)
def test_what_is_not_computed_is_refused_by_name(field: str, tiny_llama: Path, tmp_path: Path) -> None:
    with pytest.raises(ModuleError, match=rf"field '{field}' is set: {re.escape(FIELDS.refused[field])}; Head"):
        load_module(with_field(tiny_llama, tmp_path / "m", field, SET[field]))


@pytest.mark.parametrize("init", ["pissa", "pissa_niter_16", "olora", "corda", "loftq", "lora_ga", "new"])
def test_inits_that_change_the_backbone_are_refused(init: str, tiny_llama: Path, tmp_path: Path) -> None:
    with pytest.raises(ModuleError, match=rf"field 'init_lora_weights' is '{init}', which changes the backbone's"):
        load_module(with_field(tiny_llama, tmp_path / "m", "init_lora_weights", init))


def test_a_field_of_tomorrow_is_refused(tiny_llama: Path, tmp_path: Path) -> None:
    with pytest.raises(ModuleError, match="unknown field 'use_tomorrow' is set to True and may change"):
        load_module(with_field(tiny_llama, tmp_path / "m", "use_tomorrow", value=True))


def test_trained_biases_of_other_layers_are_refused(tiny_gpt2: Path, tmp_path: Path) -> None:
    made = made_by_peft.make(tiny_gpt2, tmp_path / "m", bias="all", target_modules=["c_attn"])
    with pytest.raises(
        ModuleError, match=r"c_proj\.bias' is not part of a LoRA; train the module without .* biases of"
    ):
        load_module(made)
