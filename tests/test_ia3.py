"""IA3: the stack against a float64 reference and against PEFT itself, its folders, and what is refused."""

import json
from collections.abc import Mapping
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest
import torch

import made_by_peft
from headstart.backbones import Backbone
from headstart.errors import ModuleError, SettingError
from headstart.formats import ia3_layout
from headstart.formats.libraries.peft_ia3 import FIELDS
from headstart.kinds import IA3Module, IA3Settings, load_module
from naive import (
    assert_close,
    assert_same_parameters,
    assert_untouched,
    encoded,
    load,
    photograph,
)
from replaced import Replaced
from test_tuning import RECIPE

IA3 = RECIPE.change(kind="ia3")
K0, V0 = (f"model.layers.0.self_attn.{name}" for name in ("k_proj", "v_proj"))
DOWN0 = "model.layers.0.mlp.down_proj"
DEFAULTS = {
    "tiny-llama": (["k_proj", "v_proj", "down_proj"], ["down_proj"]),
    "tiny-gpt2": (["c_attn", "mlp.c_proj"], ["mlp.c_proj"]),
    "tiny-t5": (["k", "v", "wo"], ["wo"]),
}


def random_ia3(backbone: Backbone, *, seed: int, name: str = "") -> IA3Module:
    """Factors normal around 1 with standard deviation 0.5, so that every logit changes."""
    fresh = IA3Module.fresh(backbone, IA3Settings(), name=name or f"random-{seed}", seed=seed)
    generator = torch.Generator().manual_seed(seed)
    drawn = {key: 1 + 0.5 * torch.randn(value.shape, generator=generator) for key, value in fresh.parameters().items()}
    return fresh.with_parameters(drawn)


def with_ones(module: IA3Module, path: str, size: int, *, side: str) -> IA3Module:
    """The module with `size` factors of 1 for one side, "input" or "output", of a layer."""
    inputs = module.inputs | {path} if side == "input" else module.inputs - {path}
    return replace(module, values={**module.values, f"{path}.l": torch.ones(size)}, inputs=inputs)


def scaled_weights(model: Any, leaves: Mapping[str, torch.Tensor], feedforward: str) -> dict[str, torch.Tensor]:
    """W·diag(l) where the input is scaled; diag(l)·W and l∘b where the output is."""
    changed = {}
    for name, factors in leaves.items():
        path = name.removesuffix(".l")
        layer = model.get_submodule(path)
        weight = layer.weight.T if type(layer).__name__ == "Conv1D" else layer.weight
        inputs = path.endswith(feedforward)
        weight = weight * (factors if inputs else factors.unsqueeze(1))
        changed[f"{path}.weight"] = weight.T if type(layer).__name__ == "Conv1D" else weight
        if not inputs and layer.bias is not None:
            changed[f"{path}.bias"] = layer.bias * factors
    return changed


def reference(backbone: Backbone, module: IA3Module) -> Replaced:
    (feedforward,) = DEFAULTS[backbone.name][1]
    return Replaced(backbone, module, lambda model, leaves: scaled_weights(model, leaves, feedforward))


# What it computes


def test_one_layer_by_hand(llama: Backbone) -> None:
    # The factor 3 at output 0 of k_proj triples that number, and the factor 0 at input 1 of down_proj drops that input.
    fresh = IA3Module.fresh(llama, IA3Settings(), name="m", seed=0)
    parameters = fresh.parameters()
    parameters[f"{K0}.l"][0], parameters[f"{DOWN0}.l"][1] = 3.0, 0.0
    x, y = torch.randn(1, 4, 32), torch.randn(1, 4, 48)
    key, down = llama.model.get_submodule(K0), llama.model.get_submodule(DOWN0)
    with torch.inference_mode():
        before, dropped = key(x), y.clone()
        dropped[..., 1] = 0
        expected = down(dropped)
        with IA3Module.stack([fresh.with_parameters(parameters)], llama).attach(llama):
            found = key(x)
            assert torch.equal(down(y), expected)
    assert torch.equal(found[..., 0], 3 * before[..., 0])
    assert torch.equal(found[..., 1:], before[..., 1:])


def test_the_whole_backbone_against_scaled_float64_weights(backbone: Backbone) -> None:
    items = encoded(backbone)
    modules = [random_ia3(backbone, seed=seed) for seed in (1, 2)]
    found = made_by_peft.ours(backbone, modules, items)
    for row, module in zip(found, modules, strict=True):
        assert_close(row, reference(backbone, module).logits(items), within=2e-4)
    assert not torch.allclose(found[0], found[1], atol=0.1), "the modules must differ for this to say anything"


def test_bfloat16_keeps_the_factors_exact(tiny_llama: Path) -> None:
    # 1.004 lies between the bfloat16 numbers 1 and 1.0078125; 1000 · 1.004 = 1004 is a bfloat16 number.
    backbone = load(tiny_llama, "bfloat16")
    fresh = IA3Module.fresh(backbone, IA3Settings(), name="m", seed=0)
    parameters = {name: torch.full_like(value, 1.004) for name, value in fresh.parameters().items()}
    stack = IA3Module.stack([fresh.with_parameters(parameters)], backbone)
    x = torch.full((1, 1, 48), 1000.0, dtype=torch.bfloat16)
    with torch.inference_mode():
        expected = torch.nn.functional.linear(x + 4, backbone.model.get_submodule(DOWN0).weight)
        with stack.attach(backbone):
            assert torch.equal(backbone.model.get_submodule(DOWN0)(x), expected)


# PEFT


def make(backbone_folder: Path, target: Path, **settings: Any) -> Path:
    """Save a PEFT IA3 module whose factors are random."""
    from peft import IA3Config, get_peft_model

    targets, feedforward = DEFAULTS[backbone_folder.name]
    plain = {"target_modules": targets, "feedforward_modules": feedforward}
    config = IA3Config(**(plain | settings), fan_in_fan_out=backbone_folder.name == "tiny-gpt2")
    torch.manual_seed(0)
    model = get_peft_model(made_by_peft.fresh_model(backbone_folder), config)
    for value in model.parameters():
        if value.requires_grad:
            value.data += torch.empty_like(value).normal_(std=0.5)
    model.save_pretrained(target)
    return target


PATTERN = {"tiny-llama": r".*\.(k_proj|gate_proj)", "tiny-gpt2": r".*\.(c_attn|c_fc)", "tiny-t5": r".*\.(k|wi_0)"}


@pytest.mark.parametrize("case", ["default", "open", "no feed-forward", "patterns", "excluded", "endings"])
def test_peft_computes_the_same(folder: Path, backbone: Backbone, tmp_path: Path, case: str) -> None:
    targets, feedforward = DEFAULTS[folder.name]
    settings: dict[str, Any] = {
        "default": {},
        "open": {"target_modules": None, "feedforward_modules": None},
        "no feed-forward": {"feedforward_modules": []},
        "patterns": {"target_modules": PATTERN[folder.name], "feedforward_modules": r".*(gate_proj|c_fc|wi_0)"},
        "excluded": {"exclude_modules": feedforward},
        # PEFT compares plain endings here, without the dot: q_proj is no target name but ends with "proj".
        "endings": {"target_modules": [*targets, "proj", "o"], "feedforward_modules": ["proj", "o"]},
    }[case]
    made = make(folder, tmp_path / "module", **settings)
    module = load_module(made)
    assert isinstance(module, IA3Module)
    module.check(backbone)
    items = encoded(backbone)
    found = made_by_peft.ours(backbone, [module], items)
    assert_close(found[0], torch.cat(made_by_peft.logits(folder, made, items)), within=1e-4)
    sides = {path in module.inputs for path in module.vectors}
    assert sides == (
        {False} if case in ("no feed-forward", "excluded") else {False, True} if case != "endings" else sides
    )


def test_all_linear_layers(folder: Path, backbone: Backbone, tmp_path: Path) -> None:
    # PEFT writes the layers' full paths but leaves the feed-forward names, and then refuses to load what it wrote.
    from peft import PeftModel

    made = make(folder, tmp_path / "module", target_modules="all-linear")
    with pytest.raises(ValueError, match="`feedforward_modules` should be a subset of `target_modules`"):
        PeftModel.from_pretrained(made_by_peft.fresh_model(folder), made)
    with pytest.raises(ModuleError, match=r"field 'feedforward_modules' names '.*', which 'target_modules' lacks; add"):
        load_module(made)
    config = json.loads((made / "adapter_config.json").read_text())
    config["target_modules"] += config["feedforward_modules"]
    (made / "adapter_config.json").write_text(json.dumps(config))
    module = load_module(made)
    module.check(backbone)
    items = encoded(backbone)
    expected = torch.cat(made_by_peft.logits(folder, made, items))
    assert_close(made_by_peft.ours(backbone, [module], items)[0], expected, within=1e-4)


def test_an_open_configuration_is_closed_as_peft_closes_it(folder: Path, backbone: Backbone, tmp_path: Path) -> None:
    made = make(folder, tmp_path / "module")
    config = json.loads((made / "adapter_config.json").read_text())
    opened = config | {"target_modules": None, "feedforward_modules": None}
    (made / "adapter_config.json").write_text(json.dumps(opened))
    module = load_module(made)
    module.check(backbone)
    items = encoded(backbone)
    assert_close(
        made_by_peft.ours(backbone, [module], items)[0],
        torch.cat(made_by_peft.logits(folder, made, items)),
        within=1e-4,
    )


# The backbone is left as it was


def test_a_layer_that_is_not_there_leaves_no_hook_behind(llama: Backbone) -> None:
    before = photograph(llama)
    module = random_ia3(llama, seed=1)
    lost = with_ones(module, "model.nowhere", 3, side="input")
    with pytest.raises(AttributeError), IA3Module.stack([lost], llama).attach(llama):
        pass
    assert_untouched(llama, before)


# Fresh modules


def test_a_fresh_module_changes_nothing_and_has_peft_s_own_shape(folder: Path, backbone: Backbone) -> None:
    from peft import IA3Config, get_peft_model, get_peft_model_state_dict

    module = IA3Module.fresh(backbone, IA3Settings(), name="fresh", seed=1)
    module.check(backbone)
    items = encoded(backbone)
    with torch.inference_mode():
        bare = backbone.target_logits(backbone.batch(items, range(len(items))))
    assert torch.equal(made_by_peft.ours(backbone, [module], items), bare)
    config = IA3Config(fan_in_fan_out=folder.name == "tiny-gpt2")
    theirs = get_peft_model_state_dict(get_peft_model(made_by_peft.fresh_model(folder), config))
    ours = module.state_dict()
    assert {name: value.shape for name, value in ours.items()} == {name: v.shape for name, v in theirs.items()}
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    targets, feedforward = DEFAULTS[folder.name]
    assert (module.config["target_modules"], module.config["feedforward_modules"]) == (sorted(targets), feedforward)
    assert_same_parameters(random_ia3(backbone, seed=1).reset(seed=5), module)
    assert_same_parameters(random_ia3(backbone, seed=1).untuned(backbone, seed=5), module)


def test_fresh_targets(llama: Backbone) -> None:
    chosen = IA3Module.fresh(llama, IA3Settings(("q_proj", "mlp.down_proj")), name="m", seed=0)
    sides = {path.rpartition(".")[2]: path in chosen.inputs for path in chosen.vectors}
    assert sides == {"q_proj": False, "down_proj": True}
    outputs = IA3Module.fresh(llama, IA3Settings(("down_proj",), ()), name="m", seed=0)
    assert [len(vector) for vector in outputs.values.values()] == [32, 32]
    assert outputs.inputs == set()
    with pytest.raises(SettingError, match="that can be adapted is called nope; name some of down_proj, "):
        IA3Module.fresh(llama, IA3Settings(("nope",)), name="m", seed=0)
    with pytest.raises(SettingError, match=r"'up_proj' is a feed-forward name but not a target; add it to targets"):
        IA3Module.fresh(llama, IA3Settings(("q_proj",), ("up_proj",)), name="m", seed=0)


def test_an_architecture_without_defaults(llama: Backbone, monkeypatch: pytest.MonkeyPatch) -> None:
    module = random_ia3(llama, seed=1)
    monkeypatch.setattr(llama.model.config, "model_type", "novel")
    with pytest.raises(SettingError, match="no default IA3 targets are known for 'novel'; name the layers with targe"):
        IA3Module.fresh(llama, IA3Settings(), name="m", seed=0)
    module.check(llama)
    opened = replace(module, config={**module.config, "feedforward_modules": None})
    with pytest.raises(
        ModuleError, match="'random-1' leaves feedforward_modules open and PEFT knows no default for 'novel'; state f"
    ):
        opened.check(llama)


# What does not fit


@pytest.mark.parametrize(
    ("config", "name", "shape", "message"),
    [
        ({"modules_to_save": ["head"]}, None, None, "field 'modules_to_save' is set: it carries whole layers"),
        ({"novelty": 2}, None, None, "unknown field 'novelty' is set to 2 and may change what the module computes"),
        ({}, "base_model.model.head.weight", (3, 1), "tensor 'base_model.model.head.weight' is not part of an IA3 mod"),
        ({}, f"{K0}.ia3_l", (3, 1), f"tensor '{K0}.ia3_l' does not begin with 'base_model.model.'; save it again"),
        ({}, f"base_model.model.{K0}.ia3_l.default", (3, 1), "still carries its adapter's name; save it again"),
        ({}, f"base_model.model.{K0}.ia3_l", (3,), r"has shape \(3,\), not \(out, 1\) or \(1, in\); save it again"),
        ({}, f"base_model.model.{K0}.ia3_l", (3, 2), r"has shape \(3, 2\), not \(out, 1\) or \(1, in\)"),
        ({}, f"base_model.model.{K0}.ia3_l", (0, 1), r"has shape \(0, 1\), not \(out, 1\) or \(1, in\)"),
        (
            {}, f"base_model.model.{K0}.ia3_l", (1, 3),
            r"has shape \(1, 3\) and so scales the layer's input, but feedforward_modules says its output; correct",
        ),
        (
            {}, f"base_model.model.{DOWN0}.ia3_l", (3, 1),
            r"scales the layer's output, but feedforward_modules says its input; correct feedforward_modules",
        ),
        ({}, f"base_model.model.{V0}.ia3_l", (3, 1), f"does not target layer '{V0}', so PEFT would ignore tensor"),
        ({"exclude_modules": ["k_proj"]}, None, None, f"does not target layer '{K0}', so PEFT would ignore tensor"),
        (
            {"feedforward_modules": ["up_proj"]}, None, None,
            "field 'feedforward_modules' names 'up_proj', which 'target_modules' lacks; add it there or remove it here",
        ),
        ({"target_modules": 3}, None, None, "the configuration is malformed: 3 is not a list of names; correct it"),
        ({"feedforward_modules": "["}, None, None, "the configuration is malformed: unterminated character set"),
        ({"feedforward_modules": 3}, None, None, "is malformed: feedforward_modules 3 is not a list of names; correct"),
    ],
)  # fmt: skip
def test_folders_that_are_refused(config: dict[str, Any], name: str | None, shape: Any, message: str) -> None:
    plain = {"peft_type": "IA3", "target_modules": ["k_proj", "down_proj"], "feedforward_modules": ["down_proj"]}
    shapes = {f"base_model.model.{K0}.ia3_l": (3, 1), f"base_model.model.{DOWN0}.ia3_l": (1, 4)}
    ia3_layout(plain, shapes)
    if name:
        shapes[name] = shape
    with pytest.raises(ModuleError, match=message):
        ia3_layout(plain | config, shapes)


def test_every_field_of_peft_is_decided() -> None:
    from peft import IA3Config

    assert FIELDS.handled | FIELDS.harmless | FIELDS.refused.keys() == {field.name for field in fields(IA3Config)}


def test_a_module_that_does_not_fit(llama: Backbone) -> None:
    module = random_ia3(llama, seed=1, name="m")
    far = {name.replace("layers.1.", "layers.7."): vector for name, vector in module.values.items()}
    with pytest.raises(ModuleError, match=r"'m' has tensors for model\.layers\.7\.\S+, which tiny-llama does not have"):
        replace(module, values=far).check(llama)
    with pytest.raises(ModuleError, match=rf"{K0} is \?→7 in module 'm' but 32→16 in tiny-llama; load the backbone"):
        with_ones(module, K0, 7, side="output").check(llama)
    with pytest.raises(ModuleError, match=rf"{DOWN0} is 7→\? in module 'm' but 48→32 in tiny-llama; load the backbone"):
        with_ones(module, DOWN0, 7, side="input").check(llama)
    few = {name: vector for name, vector in module.values.items() if "layers.0." in name}
    with pytest.raises(ModuleError, match=r"'m' names model\.layers\.1\.\S+ in target_modules but holds no tensors"):
        replace(module, values=few).check(llama)


def test_an_open_configuration_that_peft_would_close_otherwise(llama: Backbone) -> None:
    opened = {"target_modules": None, "feedforward_modules": None}
    module = random_ia3(llama, seed=1, name="m")
    module = replace(module, config={**module.config, **opened})
    module.check(llama)
    q0 = K0.replace("k_proj", "q_proj")
    with pytest.raises(
        ModuleError, match=rf"leaves target_modules open, and PEFT's default for tiny-llama does not have {q0}"
    ):
        with_ones(module, q0, 32, side="output").check(llama)
    with pytest.raises(
        ModuleError, match=rf"feedforward_modules open, and .* does not scale the output of {DOWN0}; stat"
    ):
        with_ones(module, DOWN0, 32, side="output").check(llama)


def test_a_module_of_another_backbone(tiny_t5: Path, llama: Backbone) -> None:
    with pytest.raises(ModuleError, match="another backbone"):
        random_ia3(load(tiny_t5), seed=1).check(llama)
