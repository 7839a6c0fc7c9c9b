"""LoRA in AdapterHub's layout, read as PEFT's."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from headstart.errors import ModuleError
from headstart.formats import LoraLayout, read_module
from headstart.kinds import LoraModule, load_module, save_module
from naive import load
from test_adapterhub import LORA, Q0, config, draw, factors, write


def t5(method: dict[str, Any], **changes: Any) -> dict[str, Any]:
    return config(method, model_type="t5", model_class="T5ForConditionalGeneration", **changes)


@pytest.mark.parametrize("as_pickle", [False, True])
def test_a_lora_is_the_lora_that_peft_would_have_saved(tmp_path: Path, tiny_t5: Path, as_pickle: bool) -> None:
    layers = [
        f"{half}.block.{n}.layer.{site}.q"
        for half, sites in (("decoder", ("0.SelfAttention", "1.EncDecAttention")), ("encoder", ("0.SelfAttention",)))
        for n in (0, 1)
        for site in sites
    ]
    tensors = factors(*layers)
    stored = read_module(write(tmp_path / "lora", t5(LORA), tensors, as_pickle=as_pickle))
    card = stored.card
    assert (card.kind, card.rank, card.scaling, card.targets) == ("lora", 4, 3.0, tuple(layers))
    assert isinstance(stored.layout, LoraLayout)
    module = load_module(stored)
    assert isinstance(module, LoraModule)
    module.check(load(tiny_t5))
    assert np.array_equal(module.factors[Q0].a.numpy(), tensors[f"{Q0}.loras.m.lora_A"])
    assert np.array_equal(module.factors[Q0].b.numpy(), tensors[f"{Q0}.loras.m.lora_B"])
    save_module(module, tmp_path / "again")
    again = read_module(tmp_path / "again")
    assert (again.config["peft_type"], again.card.tensor_hash) == ("LORA", card.tensor_hash)


def test_a_lora_of_fewer_layers_is_refused(tmp_path: Path, tiny_t5: Path) -> None:
    module = load_module(write(tmp_path / "lora", t5(LORA), factors(Q0)))
    with pytest.raises(ModuleError, match=r"names decoder\.block\.0\.\S+\.q in target_modules but holds no tensors"):
        module.check(load(tiny_t5))


@pytest.mark.parametrize(("version", "scaling"), [("1.3.0", 3.0), ("1.1.0", 3.0), ("1.0.1", 1.0), ("0.2.2", 1.0)])
def test_before_version_1_1_alpha_had_no_effect(tmp_path: Path, version: str, scaling: float) -> None:
    # The library itself reads such folders with α = r, "as trained".
    folder = write(tmp_path / "lora", t5(LORA, version=f"adapters.{version}"), factors(Q0))
    assert read_module(folder).card.scaling == scaling


@pytest.mark.parametrize(
    ("family", "layer", "path", "changes"),
    [
        ("llama", "model.layers.0.self_attn.q_proj", "model.layers.0.self_attn.q_proj", {}),
        ("llama", "layers.0.mlp.down_proj", "model.layers.0.mlp.down_proj",
         {"intermediate_lora": True, "selfattn_lora": False}),
        ("gpt2", "transformer.h.0.mlp.c_fc", "transformer.h.0.mlp.c_fc",
         {"intermediate_lora": True, "selfattn_lora": False}),
        ("t5", "decoder.block.0.layer.2.DenseReluDense.wo", "decoder.block.0.layer.2.DenseReluDense.wo",
         {"output_lora": True, "selfattn_lora": False}),
        ("bert", "encoder.layer.0.attention.self.value", "bert.encoder.layer.0.attention.self.value",
         {"attn_matrices": ["v"]}),
        ("roberta", "roberta.encoder.layer.0.output.dense", "roberta.encoder.layer.0.output.dense",
         {"output_lora": True, "selfattn_lora": False}),
    ],
)  # fmt: skip
def test_lora_layers(tmp_path: Path, family: str, layer: str, path: str, changes: dict[str, Any]) -> None:
    folder = write(tmp_path / "lora", config(LORA | changes, model_type=family), factors(layer))
    stored = read_module(folder)
    assert stored.card.targets == (path,)
    assert stored.config["fan_in_fan_out"] is (family == "gpt2")
    assert stored.config.get("exclude_modules") == (
        ["attention.output.dense"] if layer.endswith("output.dense") else None
    )


@pytest.mark.parametrize(
    ("method", "tensors", "message"),
    [
        ({"use_dora": True}, factors(Q0), "field 'use_dora' is set: DoRA in AdapterHub's layout is not read"),
        ({"vera_d": 0.1}, factors(Q0), "field 'vera_d' is set: VeRA shares its factors"),
        ({"use_gating": True}, factors(Q0), "field 'use_gating' is set"),
        ({"n_up_projection": 3}, factors(Q0), "unknown field 'n_up_projection' is set to 3"),
        ({"attn_matrices": ["k"]}, factors(Q0), "is there but fields 'selfattn_lora' and 'attn_matrices' do not adapt"),
        ({"selfattn_lora": False}, factors(Q0), "do not adapt its layer"),
        ({}, factors("encoder.block.0.layer.1.DenseReluDense.wo"), "fields 'output_lora' and"),
        (
            {"output_lora": True},
            factors("encoder.layer.0.attention.output.dense"),
            "adapts a layer that Headstart does",
        ),
        ({}, factors("h.0.attn.c_attn"), "adapts a layer that Headstart does not know in AdapterHub's layout"),
        ({}, {f"{Q0}.loras.other.lora_A": draw(4, 32)}, "lora_A' is not part of the LoRA 'm'"),
        ({}, factors(Q0) | factors(f"transformer.{Q0}"), "stands for the same parameter as another one"),
        ({"leave_out": [0]}, factors(Q0), "field 'leave_out' is set: which layers have a LoRA and which are missing"),
        ({"attn_matrices": ["q", "v"]}, factors(Q0), "'selfattn_lora' is set for 'v' but its tensors are missing"),
        ({"output_lora": True}, factors(Q0), "field 'output_lora' is set but its tensors are missing"),
        ({"r": 8}, factors(Q0), "has rank 4 but the configuration says 8"),
        ({"alpha": "high"}, factors(Q0), "field 'lora_alpha' is 'high', not a number"),
        ({}, {f"{Q0}.loras.m.lora_A": draw(4, 32)}, r"lora_B\.weight' is missing"),
        ({}, {}, "holds no tensors"),
    ],
)
def test_loras_that_do_not_fit(
    tmp_path: Path, method: dict[str, Any], tensors: dict[str, np.ndarray], message: str
) -> None:
    with pytest.raises(ModuleError, match=message):
        read_module(write(tmp_path / "lora", t5(LORA | method), tensors))


def test_an_unknown_family_of_loras(tmp_path: Path) -> None:
    folder = write(tmp_path / "lora", config(LORA, model_type="vit"), factors(Q0))
    with pytest.raises(ModuleError, match="field 'model_type' is 'vit'; LoRA in AdapterHub's layout is read for: t5"):
        read_module(folder)
