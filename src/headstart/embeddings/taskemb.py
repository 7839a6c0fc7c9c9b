"""Which parameters matter to a task: the Fisher information."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from headstart.backbones import Backbone, Encoded, target_loss
from headstart.embeddings.arrays import Array
from headstart.embeddings.contract import Embedding, Need, Subject, require_rows
from headstart.errors import ModuleError
from headstart.kinds import Module, stack_of

__all__ = ["TaskEmb", "fisher_diagonal"]

WIDEST = 16
"""How many examples share a backward pass at most: each has a copy of the module of its own."""


@dataclass(frozen=True)
class TaskEmb(Embedding):
    """The diagonal of the empirical Fisher information of the tuned parameters, over `rows` training rows.

    It is the mean over examples of the squared gradient of the log-likelihood of the example's own answer, all of its
    tokens; not of answers drawn from the model. Parameters are in the order of their names. A row whose answer lies
    beyond what is read of its input does not count.
    """

    name = "taskemb"
    source = "Achille et al., 2019, §2; Vu et al., 2020, §4; a baseline of Zhou et al., 2022, §4.2"
    needs = frozenset({Need.PARAMETERS, Need.DATA})

    rows: int = 100

    def __post_init__(self) -> None:
        require_rows(self.name, self.rows)

    def of(self, subject: Subject) -> Array:
        """As long as the module. Raises `ModuleError` for a module that a stack does not compute."""
        examples, backbone = subject.data(self.name, self.rows)
        module = subject.module
        if module.only_ranked:
            raise ModuleError(f"'{module.name}' is {module.only_ranked} without gradients of examples; use textemb")
        module.check(backbone)
        pairs = [(example.text, example.target) for example in examples]
        encoded = backbone.encode(pairs, subject.text_format, head=module.card.head)
        items = [item for item in encoded if not item.cut_off]
        if not items:
            raise ModuleError(
                f"no answer of the {len(encoded)} rows lies within the first {subject.text_format.max_input} tokens of "
                "its input; raise max_input, or shorten the inputs"
            )
        found = fisher_diagonal(module, items, backbone)
        return np.concatenate([found[name].ravel() for name in sorted(found)])


def fisher_diagonal(module: Module, items: Sequence[Encoded], backbone: Backbone) -> dict[str, Array]:
    """The mean over examples of the squared gradient of log p(answer), for each parameter by name, float64.

    Several examples share a pass: a stack of copies of the module gives each example gradients of its own.
    """
    longest = max(len(item.prompt) + len(item.target) for item in items)
    width = 1 if backbone.goes_alone else max(1, min(WIDEST, backbone.token_budget // longest, len(items)))
    sums: dict[str, Tensor] = {}
    for start in range(0, len(items), width):
        chosen = items[start : start + width]
        stack = stack_of([module] * len(chosen), backbone, dtype=torch.float32)
        batch = backbone.batch(chosen, range(len(chosen)))
        with stack.attach(backbone), stack.gradients():
            loss = target_loss(backbone.target_logits(batch), batch.gold.to(backbone.device))
            torch.autograd.backward(loss.sum())
            for name in module.parameters():
                gradient = stack.parameters[name].grad
                squared = torch.zeros_like(stack.parameters[name]) if gradient is None else gradient
                squared = squared.detach().cpu().double().pow(2).sum(0)
                sums[name] = squared if name not in sums else sums[name] + squared
    return {name: (value / len(items)).numpy() for name, value in sums.items()}
