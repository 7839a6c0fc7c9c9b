"""How the learning rate changes over a tuning: transformers' schedules, as functions of the step."""

from collections.abc import Callable

import torch
from transformers import get_scheduler

from headstart.tuning.recipes import Recipe

__all__ = ["learning_rate"]


def learning_rate(recipe: Recipe) -> Callable[[int], float]:
    """The learning rate of an update that `step` ≥ 0 others came before."""
    nothing = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=recipe.lr)
    schedule = get_scheduler(
        recipe.schedule, nothing, num_warmup_steps=recipe.warmup_steps, num_training_steps=recipe.max_steps
    )
    (factor,) = schedule.lr_lambdas  # transformers gives each of `SCHEDULES` as a factor that depends on the step
    return lambda step: recipe.lr * float(factor(step))
