"""Bottleneck adapters: against a float64 reference, against what `adapters` 1.3 computed, and what is refused."""

import copy
import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from formula import by_formula
from headstart.backbones import Backbone, Encoded
from headstart.errors import ModuleError, SettingError
from headstart.formats.libraries.adapterhub_adapter import ACTIVATIONS as READ
from headstart.formats.libraries.adapterhub_adapter import bottleneck_size, reduction_factor
from headstart.hub import Hub
from headstart.kinds import AdapterModule, AdapterSettings, fresh_module, load_module, save_module
from headstart.kinds.adapter import ACTIVATIONS
from headstart.kinds.placement import PLACEMENTS
from made_by_peft import ours
from naive import (
    assert_close,
    assert_same_parameters,
    encoded,
    load,
    plain_logits,
)

MLP0, ATTN0 = "model.layers.0.mlp", "model.layers.0.self_attn"
OUTPUTS = {
    "tiny-llama": lambda path: path.removesuffix(".mlp"),
    "tiny-gpt2": lambda path: path.removesuffix(".mlp"),
    "tiny-t5": lambda path: path.removesuffix(".DenseReluDense"),
}
"""From a feed-forward network's path to that of the layer that adds its output to the residual stream."""


def random_adapter(backbone: Backbone, *, seed: int, name: str = "", **settings: Any) -> AdapterModule:
    """Every parameter normal with standard deviation 0.3, so that every logit changes."""
    shape = AdapterSettings(**({"bottleneck": 5} | settings))
    fresh = AdapterModule.fresh(backbone, shape, name=name or f"random-{seed}", seed=seed)
    generator = torch.Generator().manual_seed(seed)
    return fresh.with_parameters(
        {key: 0.3 * torch.randn(v.shape, generator=generator) for key, v in fresh.parameters().items()}
    )


class Adapted:
    """A float64 copy of the backbone whose layers call an adapter themselves; its parameters are `leaves`.

    An adapter that reads the sum h + e stands behind the layer that makes that sum, where there is nothing to keep.
    """

    def __init__(self, backbone: Backbone, module: AdapterModule) -> None:
        self.model = copy.deepcopy(backbone.model).double()
        self.config = self.model.config
        self.leaves = {name: value.double().clone().requires_grad_(True) for name, value in module.parameters().items()}
        for path in module.sizes:
            where = OUTPUTS[backbone.name](path) if module.computation.reads == "sum" else path
            layer = self.model.get_submodule(where)
            layer.forward = self.behind(path, layer.forward, ACTIVATIONS[module.computation.activation])

    def behind(self, path: str, forward: Callable[..., Any], act: Callable[[Tensor], Tensor]) -> Callable[..., Any]:
        def adapter(h: Tensor) -> Tensor:
            found = {part: self.leaves.get(f"{path}.{part}", 0) for part in ("down", "down_bias", "up", "up_bias")}
            return h + act(h @ found["down"].T + found["down_bias"]) @ found["up"].T + found["up_bias"]

        def adapted(*args: Any, **kwargs: Any) -> Any:
            output = forward(*args, **kwargs)
            return (adapter(output[0]), *output[1:]) if isinstance(output, tuple) else adapter(output)

        return adapted

    def __call__(self, **inputs: Any) -> Any:
        return self.model(**inputs)

    def logits(self, items: Sequence[Encoded]) -> Tensor:
        return torch.cat([plain_logits(self, item) for item in items])

    def cross_entropy(self, items: Sequence[Encoded]) -> Tensor:
        gold = torch.tensor([token for item in items for token in item.target])
        return torch.nn.functional.cross_entropy(self.logits(items), gold, reduction="sum")

    def slope(self, items: Sequence[Encoded], name: str, place: int, *, step: float = 3e-3) -> float:
        """Central difference of the cross-entropy along one number; small steps drown in float32 layer norms."""
        with torch.no_grad():
            number = self.leaves[name].view(-1)
            number[place] += step
            above = self.cross_entropy(items).item()
            number[place] -= 2 * step
            below = self.cross_entropy(items).item()
            number[place] += step
        return (above - below) / (2 * step)


# What it computes


def test_one_layer_by_hand(llama: Backbone) -> None:
    # D reads x₀ and adds d = 1, the activation is relu, U writes 2· of it to output 3 and u adds 0.5 to output 4:
    # h₃ grows by 2·max(h₀ + 1, 0), h₄ by 0.5, and nothing else moves.
    settings = AdapterSettings(bottleneck=1, placement="houlsby", activation="relu")
    fresh = AdapterModule.fresh(llama, settings, name="m", seed=0)
    parameters = {name: torch.zeros_like(value) for name, value in fresh.parameters().items()}
    parameters[f"{MLP0}.down"][0, 0] = parameters[f"{MLP0}.down_bias"][0] = 1.0
    parameters[f"{MLP0}.up"][3, 0], parameters[f"{MLP0}.up_bias"][4] = 2.0, 0.5
    layer, x = llama.model.get_submodule(MLP0), torch.randn(1, 6, 32)
    with torch.inference_mode():
        h = layer(x)
        with AdapterModule.stack([fresh.with_parameters(parameters)], llama).attach(llama):
            grown = layer(x) - h
    assert_close(grown[..., 3], 2 * (h[..., 0] + 1).clamp(min=0), within=1e-5)
    assert_close(grown[..., 4], torch.full((1, 6), 0.5), within=1e-5)
    assert not grown[..., :3].any()
    assert not grown[..., 5:].any()


@pytest.mark.parametrize("placement", PLACEMENTS)
def test_the_whole_backbone_against_a_float64_reference(backbone: Backbone, placement: str) -> None:
    items = encoded(backbone)
    modules = [random_adapter(backbone, seed=seed, placement=placement) for seed in (1, 2)]
    found = ours(backbone, modules, items)
    for row, module in zip(found, modules, strict=True):
        assert_close(row, Adapted(backbone, module).logits(items), within=2e-4)
    assert not torch.allclose(found[0], found[1], atol=0.1), "the modules must differ for this to say anything"


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_every_activation(llama: Backbone, activation: str) -> None:
    items = encoded(llama)[:2]
    module = random_adapter(llama, seed=1, placement="pfeiffer", activation=activation)
    assert_close(ours(llama, [module], items)[0], Adapted(llama, module).logits(items), within=1e-4)


def test_what_can_be_read_can_be_computed() -> None:
    assert tuple(ACTIVATIONS) == READ


GOLDEN = {
    "tiny-llama": {
        "houlsby": (1.4415, 1.5387, 0.8591, -0.2542), "pfeiffer": (1.3624, 1.2925, 0.5701, -0.4401),
        "pewe": (1.0213, 1.3592, 1.0109, 0.1523), "parallel": (1.2916, 1.5203, 0.9816, -0.0527),
        "plus": (1.3662, 1.2977, 0.5741, -0.4393),
    },
    "tiny-gpt2": {
        "houlsby": (5.4979, 4.4994, 1.2296, -2.661), "pfeiffer": (0.2745, -1.0857, -1.8979, -1.7519),
        "pewe": (4.0125, 1.1278, -2.3261, -4.6058), "parallel": (1.5387, -0.6521, -2.5137, -3.1063),
        "plus": (0.3124, -1.0972, -1.9529, -1.8227),
    },
    "tiny-t5": {
        "houlsby": (-0.0135, -0.7322, -1.0813, -0.8845), "pfeiffer": (0.0984, -0.71, -1.1601, -1.0245),
        "pewe": (-0.0121, -0.9066, -1.3435, -1.1021), "parallel": (0.0288, -0.7979, -1.2217, -1.0289),
        "plus": (0.0982, -0.7121, -1.163, -1.0268),
    },
}  # fmt: skip
"""The first four logits at the last position as the library `adapters` 1.3.0 computed them with transformers 4.57.6."""

CHANGES: dict[str, tuple[str, dict[str, Any]]] = {
    "houlsby": ("houlsby", {}),
    "pfeiffer": ("pfeiffer", {}),
    "pewe": ("pewe", {}),
    "parallel": ("houlsby", {"is_parallel": True, "scaling": 0.5, "non_linearity": "gelu_new"}),
    "plus": ("pfeiffer", {"original_ln_after": False, "residual_before_ln": False, "non_linearity": "gelu"}),
}
"""By design: the placement that it begins from, and AdapterHub's fields that differ."""


@pytest.mark.parametrize("design", CHANGES)
def test_adapterhub_computes_the_same(folder: Path, tmp_path: Path, design: str) -> None:
    backbone = load(folder)
    with torch.no_grad():
        for name, value in backbone.model.named_parameters():
            value.copy_(by_formula(name, value))
    placement, changes = CHANGES[design]
    module = AdapterModule.fresh(backbone, AdapterSettings(bottleneck=8, placement=placement), name="m", seed=0)
    values = [by_formula(name, value) for name, value in module.state_dict().items()]
    module = module.with_parameters(dict(zip(module.parameters(), values, strict=True)))
    config = {**module.config, "config": module.config["config"] | changes}
    card = module.card.model_copy(update={"scaling": changes.get("scaling", 1.0)})
    save_module(replace(module, config=config, card=card), tmp_path / "m")
    module = load_module(tmp_path / "m")
    module.check(backbone)
    inputs = {"input_ids": torch.tensor([[5, 9, 33, 200, 17, 4]])}
    if backbone.seq2seq:
        inputs["decoder_input_ids"] = torch.tensor([[0, 9, 4]])
    with torch.inference_mode(), type(module).stack([module], backbone).attach(backbone):
        logits = backbone.model(**inputs).logits[0, -1, :4]
    assert_close(logits, torch.tensor(GOLDEN[folder.name][design]), within=1e-4)


# Many at once


def test_members_may_differ_in_scaling(llama: Backbone) -> None:
    # s·(U·a + u): half the scaling with U and u doubled is the same function.
    one = random_adapter(llama, seed=1, placement="houlsby")
    doubled = {name: value * (2 if ".up" in name else 1) for name, value in one.parameters().items()}
    half = replace(one.with_parameters(doubled), computation=one.computation._replace(factor=0.5))
    assert half.stack_key == one.stack_key
    found = ours(llama, [one, half], encoded(llama))
    assert_close(found[0], found[1], within=1e-4)


def gradients(modules: list[AdapterModule], backbone: Backbone, items: list[Encoded]) -> dict[str, Tensor]:
    """Of the cross-entropy of all target tokens, (N, …) by name, from one backward pass."""
    stack = AdapterModule.stack(modules, backbone)
    batch = backbone.batch(items, range(len(items)))
    with stack.attach(backbone), stack.gradients():
        logits = backbone.target_logits(batch, modules=len(modules)).flatten(0, 1)
        gold = batch.gold.expand(len(modules), -1).flatten()
        torch.nn.functional.cross_entropy(logits, gold, reduction="sum").backward()
        return {name: value.grad.clone() for name, value in stack.parameters.items() if value.grad is not None}


# Fresh modules


def test_a_fresh_module_changes_nothing(backbone: Backbone) -> None:
    items = encoded(backbone)
    with torch.inference_mode():
        bare = backbone.target_logits(backbone.batch(items, range(len(items))))
    for placement in PLACEMENTS:
        module = AdapterModule.fresh(backbone, AdapterSettings(placement=placement), name="m", seed=1)
        module.check(backbone)
        assert_close(ours(backbone, [module], items), bare, within=1e-5)
        assert all(value.abs().max() <= 32**-0.5 for value in module.parameters().values())
        assert_same_parameters(module.reset(seed=1), module)
        assert not torch.equal(*(next(iter(m.parameters().values())) for m in (module, module.reset(seed=2))))


def test_the_default_is_the_paper_s(tiny_t5: Path) -> None:
    # 2 encoder blocks with 2 sites and 2 decoder blocks with 3; each adapter is 12 × 32 down and 32 × 12 up.
    module = AdapterModule.fresh(load(tiny_t5), AdapterSettings(), name="m", seed=0)
    assert len(module.sizes) == 10
    assert module.card.parameters == 10 * 2 * 12 * 32
    assert (module.card.rank, module.computation.activation, module.computation.reads) == (12, "swish", "output")
    assert {path.rpartition(".")[2] for path in module.sizes} == {
        "SelfAttention", "EncDecAttention", "DenseReluDense",
    }  # fmt: skip


@given(width=st.integers(1, 8192), size=st.integers(1, 8192))
def test_the_stated_reduction_makes_the_size(width: int, size: int) -> None:
    assert bottleneck_size(width, json.loads(json.dumps(reduction_factor(width, size)))) == size


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"placement": "lora"}, "unknown placement 'lora'; choose one of: houlsby, pfeiffer, pewe"),
        ({"activation": "sine"}, "unknown activation 'sine'; choose one of: relu, gelu, gelu_new, swish"),
        ({"bottleneck": 0}, "setting of kind 'adapter': bottleneck=0 must be above 0; correct it"),
    ],
)
def test_settings_that_are_none(llama: Backbone, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(SettingError, match=message):
        fresh_module("adapter", llama, settings, name="m", seed=0)


# Folders


def test_a_hub_holds_adapters(llama: Backbone, tmp_path: Path) -> None:
    save_module(random_adapter(llama, seed=1), tmp_path / "made")
    hub = Hub.create(tmp_path / "hub")
    card = hub.add(tmp_path / "made", name="one")
    assert (card.kind, hub.names(), hub.card("one").rank) == ("adapter", ["one"], 5)
    load_module(hub.read("one")).check(llama)


# What does not fit


def test_another_architecture(llama: Backbone, tiny_gpt2: Path) -> None:
    module = random_adapter(llama, seed=1)
    anonymous = replace(module, card=module.card.model_copy(update={"backbone": None}))
    with pytest.raises(ModuleError, match=r"has tensors for model\.layers\.0\.self_attn, which tiny-gpt2 does not"):
        anonymous.check(load(tiny_gpt2))
    with pytest.raises(ModuleError, match="was made for another backbone"):
        module.check(load(tiny_gpt2))


def test_an_architecture_without_a_table(llama: Backbone) -> None:
    class Stranger:
        name = "stranger"
        model = copy.copy(llama.model)

    Stranger.model.config = copy.copy(llama.model.config)
    Stranger.model.config.model_type = "mamba"
    with pytest.raises(
        SettingError, match="stranger is a 'mamba', and bottleneck adapters are placed in: t5, mt5, llama"
    ):
        AdapterModule.fresh(Stranger, AdapterSettings(), name="m", seed=0)  # type: ignore[arg-type]


def test_fewer_layers_and_another_width(llama: Backbone) -> None:
    module = random_adapter(llama, seed=1, placement="houlsby")
    few = {name: value for name, value in module.values.items() if ".0." in name}
    with pytest.raises(
        ModuleError, match=r"sets mh_adapter but holds no tensors for model\.layers\.1\.self_attn; it was made for"
    ):
        replace(module, values=few).check(llama)
    left_out = {**module.config, "config": module.config["config"] | {"leave_out": [1]}}
    replace(module, values=few, config=left_out).check(llama)
    wide = {**module.values, f"{MLP0}.down": torch.zeros(5, 64)}
    with pytest.raises(ModuleError, match=rf"{MLP0} is \?→64 in module 'random-1' but 32→32 in tiny-llama; load"):
        replace(module, values=wide).check(llama)
