"""Which modules compute together, and what a stack says of each of its members."""

import pytest
import torch

from headstart.backbones import Backbone, EncoderBackbone, Head, TextFormat
from headstart.kinds import KINDS, LoraModule, fresh_module, stacks
from headstart.records import HeadCard
from headstart.testing import tiny_backbone
from naive import random_lora

LABELS = HeadCard(task="classification", outputs=2, labels=("no", "yes"))
Q0 = "model.layers.0.self_attn.q_proj"


def test_stacks_group_equal_shapes_in_order(llama: Backbone) -> None:
    two, three = (random_lora(llama, seed=1, rank=rank) for rank in (2, 3))
    assert stacks([two, three, two, two, three], most=2) == [[0, 2], [3], [1, 4]]
    assert stacks([], most=2) == []


def test_squared_gradients_are_per_module(llama: Backbone) -> None:
    stack = LoraModule.stack([random_lora(llama, seed=1), random_lora(llama, seed=2)], llama)
    name = f"{Q0}.a"
    with stack.gradients():
        (stack.parameters[name] * torch.tensor([1.0, 2.0]).view(2, 1, 1)).sum().backward()
        squared = stack.squared_gradients()
    # The gradient is 1 in the first module and 2 in the second, at each of 3 × 32 places.
    assert squared[name].tolist() == [96.0, 384.0]
    assert squared[f"{Q0}.b"].tolist() == [0.0, 0.0]


def test_the_digest_is_that_of_the_function(llama: Backbone) -> None:
    one = random_lora(llama, seed=1)
    assert one.digest() == random_lora(llama, seed=1).digest()
    others = [random_lora(llama, seed=2), random_lora(llama, seed=1, alpha=7.0), random_lora(llama, seed=1, rank=2)]
    assert len({one.digest(), *(other.digest() for other in others)}) == 4


@pytest.mark.parametrize("kind", KINDS)
def test_modules_heads_and_batches_are_equal_to_themselves_alone(kind: str) -> None:
    backbone = tiny_backbone("bert")
    one, two = (fresh_module(kind, backbone, {}, name="m", seed=1).with_head(_head(backbone)) for _ in range(2))
    assert one == one
    assert one != two
    assert [one, two].index(two) == 1
    assert len({one, two}) == 2
    assert one.head in (two.head, one.head)
    items = backbone.encode([("a", "no"), ("b", "yes")], TextFormat(), head=LABELS)
    assert backbone.batch(items, [0, 1]) != backbone.batch(items, [0, 1])


def _head(backbone: Backbone) -> Head:
    assert isinstance(backbone, EncoderBackbone)
    return backbone.fresh_head(LABELS, seed=0)
