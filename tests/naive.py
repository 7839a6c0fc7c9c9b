"""Slow and plain computations that the fast ones are compared with, and the comparisons themselves."""

import copy
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from headstart.backbones import Backbone, Encoded, TextFormat
from headstart.kinds import LoraModule, LoraSettings, Module
from headstart.tasks import Example

BACKBONES = ("tiny_llama", "tiny_gpt2", "tiny_t5")
TARGETS = {
    "tiny-llama": ("q_proj", "down_proj"),
    "tiny-gpt2": ("c_attn", "mlp.c_proj"),
    "tiny-t5": ("q", "v", "wo"),
}
"""Layers to adapt, by the backbone's name: attention of every sort, and feed-forward."""

REVIEWS = (
    Example("the film is warm", ("positive",), ("negative", "positive")),
    Example("a dull , tired mess that never comes to life", ("negative",), ("negative", "positive")),
    Example("superb", ("positive",), ("negative", "positive")),
    Example("a man is sleeping and the acting is a delight , warm and funny", ("positive",), ("negative", "positive")),
    Example("never", ("negative",), ("negative", "positive")),
    Example("tired and dull", ("negative",), ("negative", "positive")),
)
"""Examples of unequal lengths with closed answers."""


def load(folder: Path, dtype: str = "float32") -> Backbone:
    return Backbone.load(folder, device="cpu", dtype=dtype)


def encoded(backbone: Backbone) -> list[Encoded]:
    """`REVIEWS` as ids."""
    return backbone.encode([(example.input, example.target) for example in REVIEWS], TextFormat())


def random_lora(
    backbone: Backbone, *, seed: int, rank: int = 3, alpha: float = 6.0, size: float = 0.2, name: str = ""
) -> LoraModule:
    """A LoRA module that changes every logit: A and B normal with standard deviation `size`."""
    settings = LoraSettings(rank, alpha, TARGETS[backbone.name])
    fresh = LoraModule.fresh(backbone, settings, name=name or f"random-{seed}", seed=seed)
    generator = torch.Generator().manual_seed(seed)
    drawn = {
        key: torch.empty_like(value).normal_(std=size, generator=generator) for key, value in fresh.parameters().items()
    }
    return fresh.with_parameters(drawn)


def plain_logits(model: Any, item: Encoded, **extra: Any) -> Tensor:
    """Logits at the target positions of one example, (targets, V), from one unpadded forward pass."""
    if model.config.is_encoder_decoder:
        decoder = torch.tensor([[model.config.decoder_start_token_id, *item.target[:-1]]])
        return model(input_ids=torch.tensor([item.prompt]), decoder_input_ids=decoder, **extra).logits[0]
    ids = torch.tensor([item.prompt + item.target[:-1]])
    return model(input_ids=ids, **extra).logits[0, len(item.prompt) - 1 :]


class Merged:
    """A float64 copy of the backbone whose weights are W + s·B·A, with A and B as float64 leaves."""

    def __init__(self, backbone: Backbone, module: LoraModule | None) -> None:
        self.model = copy.deepcopy(backbone.model).double()
        self.scaling = {path: f.scaling for path, f in module.factors.items()} if module else {}
        self.leaves = {
            name: value.double().clone().requires_grad_(True)
            for name, value in (module.parameters() if module else {}).items()
        }

    def logits(self, item: Encoded) -> Tensor:
        weights = {}
        for path, scaling in self.scaling.items():
            layer = self.model.get_submodule(path)
            update = scaling * (self.leaves[f"{path}.b"] @ self.leaves[f"{path}.a"])
            weights[f"{path}.weight"] = layer.weight + (update.T if type(layer).__name__ == "Conv1D" else update)

        class Caller:
            config = self.model.config

            def __call__(caller, **inputs: Any) -> Any:  # noqa: N805
                return torch.func.functional_call(self.model, weights, kwargs=inputs)

        return plain_logits(Caller(), item)

    def cross_entropy(self, items: Sequence[Encoded]) -> Tensor:
        """The sum over all target tokens of all items."""
        losses = [
            -self.logits(item).log_softmax(-1)[torch.arange(len(item.target)), torch.tensor(item.target)].sum()
            for item in items
        ]
        return torch.stack(losses).sum()


def assert_close(actual: Tensor, expected: Tensor, *, within: float) -> None:
    """Same shape, no NaN, and nowhere further apart than `within`, of the largest value where that is above 1."""
    assert actual.shape == expected.shape, f"shapes {tuple(actual.shape)} and {tuple(expected.shape)} differ"
    distance = (actual.detach().double() - expected.detach().double()).abs().max().item()
    assert not math.isnan(distance), "there are NaNs"
    largest = expected.detach().abs().max().item() if expected.numel() else 0.0
    assert distance <= within * max(1.0, largest), f"{distance} apart"


def assert_same_parameters(actual: Module, expected: Module) -> None:
    """Bit-identical parameters under the same names."""
    mine, theirs = actual.parameters(), expected.parameters()
    assert mine.keys() == theirs.keys()
    assert all(torch.equal(mine[name], theirs[name]) for name in mine), "a parameter differs"


def photograph(backbone: Backbone) -> dict[str, Tensor]:
    """Everything that must be as before, copied."""
    return {name: value.clone() for name, value in backbone.model.state_dict().items()}


def assert_untouched(backbone: Backbone, before: Mapping[str, Tensor]) -> None:
    """Bit-identical weights, the same layers, no hooks, nothing trainable, no trace of PEFT."""
    now = backbone.model.state_dict()
    assert now.keys() == before.keys(), "a layer came or went"
    assert all(torch.equal(now[name], before[name]) for name in now), "a weight changed"
    for path, layer in backbone.model.named_modules():
        assert not layer._forward_hooks, f"{path} has a forward hook"
        assert not layer._forward_pre_hooks, f"{path} has a forward pre-hook"
        assert "peft" not in type(layer).__module__, f"{path} is PEFT's"
        assert not layer.training, f"{path} is in training mode"
    assert not any(value.requires_grad for value in backbone.model.parameters()), "a weight is trainable"
    assert not hasattr(backbone.model, "peft_config"), "a PEFT configuration is left"
