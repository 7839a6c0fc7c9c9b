"""The slow and plain reference for kinds that only change the backbone's numbers: a float64 copy with others."""

import copy
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from headstart.backbones import Backbone, Encoded
from headstart.kinds import Module
from naive import plain_logits

Weights = Callable[[Any, Mapping[str, Tensor]], dict[str, Tensor]]
"""(float64 model, a module's parameters) → the parameters that the module changes, by name."""


class Replaced:
    """What the backbone computes in float64 with the weights that `module` makes of its own; `leaves` get gradients."""

    def __init__(self, backbone: Backbone, module: Module, weights: Weights) -> None:
        self.model = copy.deepcopy(backbone.model).double()
        self.config = self.model.config
        self.weights = weights
        self.leaves = {name: value.double().clone().requires_grad_(True) for name, value in module.parameters().items()}

    def __call__(self, **inputs: Any) -> Any:
        return torch.func.functional_call(self.model, self.weights(self.model, self.leaves), kwargs=inputs)

    def logits(self, items: Sequence[Encoded]) -> Tensor:
        """At all target positions of all items."""
        return torch.cat([plain_logits(self, item) for item in items])

    def cross_entropy(self, items: Sequence[Encoded]) -> Tensor:
        """The sum over all target tokens of all items."""
        gold = torch.tensor([token for item in items for token in item.target])
        return torch.nn.functional.cross_entropy(self.logits(items), gold, reduction="sum")

    def slope(self, items: Sequence[Encoded], name: str, place: int, *, step: float = 3e-3) -> float:
        """Central difference of the cross-entropy along one number of one parameter.

        The step is long because the norms of Llama and T5 compute in float32 whatever they are given.
        """
        flat = self.leaves[name].detach().view(-1)
        kept, losses = flat[place].item(), []
        with torch.no_grad():
            for value in (kept + step, kept - step):
                flat[place] = value
                losses.append(self.cross_entropy(items).item())
            flat[place] = kept
        return (losses[0] - losses[1]) / (2 * step)


def gradients(modules: Sequence[Module], backbone: Backbone, items: Sequence[Encoded]) -> dict[str, Tensor]:
    """Of the summed cross-entropy of each module, (N, …) by parameter, from one backward pass of one stack."""
    stack = type(modules[0]).stack(modules, backbone)
    batch = backbone.batch(items, range(len(items)))
    with stack.attach(backbone), stack.gradients():
        logits = backbone.target_logits(batch, modules=len(modules))
        torch.nn.functional.cross_entropy(
            logits.flatten(0, 1).float(), batch.gold.repeat(len(modules)), reduction="sum"
        ).backward()
        return {name: value.grad.clone() for name, value in stack.parameters.items() if value.grad is not None}
