"""Several tunings in one pass: each against a plain loop of its own, who comes and goes, and what fails."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import get_scheduler
from transformers.optimization import Adafactor

from encoder_tasks import RECIPE as ENCODER_RECIPE
from encoder_tasks import a_task
from encoders import QUERIES, encoder
from headstart.backbones import Backbone, target_loss
from headstart.kinds import Module, stack_of
from headstart.kinds.headed import HeadedStack
from headstart.tuning.evaluation import Evaluation
from headstart.tuning.lane import Lane
from headstart.tuning.lanes import tune_lanes
from headstart.tuning.order import RowOrder
from headstart.tuning.recipes import SCHEDULES, Recipe
from headstart.tuning.run import Run
from headstart.tuning.schedules import learning_rate
from naive import REVIEWS, assert_untouched, photograph
from test_tuning import CARD, RECIPE, TASK

STEPS = 20
KINDS = ("lora", "ia3", "bitfit", "prompt", "prefix", "adapter")
SHAPES: dict[str, dict[str, Any]] = {
    "prompt": {"length": 3},
    "prefix": {"length": 3},
    "adapter": {"bottleneck": 4},
    "bitfit": {"targets": ("c_fc", "c_proj", "ln_2")},  # not c_attn: a bias of keys has no gradient, only rounding
}
TWENTY = RECIPE.change(max_steps=STEPS, eval_every=STEPS, lr=1e-3)


@pytest.fixture
def the_last_is_the_best(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every evaluation finds more than the one before, so the states compared are those after the last step."""
    evaluated = Run.evaluated

    def given(self: Run, _: Evaluation, *, seconds: float) -> None:
        evaluated(self, Evaluation("ACC", self.step, -self.step, (), "options"), seconds=seconds)

    monkeypatch.setattr(Run, "evaluated", given)


def task_of(rows: slice, name: str = "reviews") -> Any:
    return replace(TASK, card=CARD.model_copy(update={"name": name}), splits={"train": REVIEWS[rows], "dev": REVIEWS})


def unlike(recipe: Recipe) -> list[Lane]:
    """Three lanes that differ in rows, batch size (with a smaller last batch), learning rate, clipping and schedule."""
    return [
        Lane(task_of(slice(0, 6)), recipe=recipe.change(batch_size=4), seed=1),
        Lane(task_of(slice(0, 3)), recipe=recipe.change(lr=3e-3, clip=0.05, schedule="cosine"), seed=2),
        Lane(task_of(slice(2, 5)), recipe=recipe.change(lr=5e-4, clip=0.0, weight_decay=0.1, warmup_steps=9), seed=3),
    ]


def alone(lane: Lane, backbone: Backbone) -> Module:
    """A textbook loop over one module: the libraries' own optimizers and clipping, parameters without any stacking."""
    run = Run(lane, backbone)
    stack = stack_of([run.start], backbone, dtype=torch.float32)
    inner = [stack.modules.parameters, stack.heads.parameters] if isinstance(stack, HeadedStack) else [stack.parameters]
    held = [(home, name, value[0].clone().requires_grad_(True)) for home in inner for name, value in home.items()]
    leaves = [leaf for _, _, leaf in held]
    recipe = lane.recipe
    if recipe.optimizer == "adamw":
        optimizer: Any = torch.optim.AdamW(leaves, lr=recipe.lr, weight_decay=recipe.weight_decay)
    else:
        optimizer = Adafactor(
            leaves, lr=recipe.lr, weight_decay=recipe.weight_decay, scale_parameter=False, relative_step=False
        )
    schedule = get_scheduler(recipe.schedule, optimizer, recipe.warmup_steps, recipe.max_steps)
    with stack.attach(backbone):
        for step in range(recipe.max_steps):
            for home, name, leaf in held:
                home[name] = leaf.unsqueeze(0)
            batch = backbone.batch(run.items, run.order.at(step))
            torch.autograd.backward(target_loss(backbone.target_logits(batch), batch.gold).mean())
            if recipe.clip:
                torch.nn.utils.clip_grad_norm_(leaves, recipe.clip)
            optimizer.step()
            schedule.step()
            optimizer.zero_grad()
    with torch.no_grad():
        for home, name, leaf in held:
            home[name] = leaf.unsqueeze(0)
    return stack.module(0)


def assert_as_alone(lanes: list[Lane], backbone: Backbone, *, most: int) -> None:
    before = photograph(backbone)
    found = dict(tune_lanes(lanes, backbone, most=most))
    assert_untouched(backbone, before)
    assert sorted(found) == list(range(len(lanes)))
    for index, lane in enumerate(lanes):
        expected, start = alone(lane, backbone), Run(lane, backbone).start
        assert_close_modules(found[index].module, expected, within=1e-5)
        assert largest_difference(expected, start) > 1e-3, "it must have moved"


def largest_difference(one: Module, other: Module) -> float:
    mine, theirs = (defined(module) for module in (one, other))
    assert mine.keys() == theirs.keys()
    return max(float((mine[name] - theirs[name]).abs().max()) for name in mine)


def defined(module: Module) -> dict[str, Tensor]:
    """The parameters whose gradient is not zero by its nature.

    A softmax does not change when all its inputs grow alike: the bias of a span's head has no gradient, and what an
    optimizer makes of the rounding there is no result.
    """
    found = {**module.parameters(), **(module.head.tensors if module.head else {})}
    found.pop("qa_outputs.bias", None)
    return found


def assert_close_modules(found: Module, expected: Module, *, within: float) -> None:
    assert largest_difference(found, expected) < within


# A lane's result is that of tuning it alone


@pytest.mark.parametrize("optimizer", ["adamw", "adafactor"])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ["llama", "gpt2", "t5"])
@pytest.mark.usefixtures("the_last_is_the_best")
def test_lanes_are_single_runs(name: str, kind: str, optimizer: str, request: pytest.FixtureRequest) -> None:
    backbone: Backbone = request.getfixturevalue(name)
    if kind == "bitfit" and name != "gpt2":
        pytest.skip("its layers have no biases")
    assert_as_alone(unlike(TWENTY.change(kind=kind, optimizer=optimizer, **SHAPES.get(kind, {}))), backbone, most=3)


@pytest.mark.parametrize("optimizer", ["adamw", "adafactor"])
@pytest.mark.parametrize("task", ["classification", "regression", "span"])
@pytest.mark.usefixtures("the_last_is_the_best")
def test_lanes_of_encoders_are_single_runs(task: str, optimizer: str) -> None:
    recipe = ENCODER_RECIPE.change(
        max_steps=STEPS, eval_every=STEPS, lr=1e-3, optimizer=optimizer, targets=QUERIES["bert"]
    )
    data = a_task(task)
    fewer = replace(data, splits={"train": data.train[:7], "dev": data.dev})
    lanes = [Lane(data, recipe=recipe, seed=1), Lane(fewer, recipe=recipe.change(batch_size=3, clip=0.01), seed=2)]
    assert_as_alone(lanes, encoder("bert"), most=2)


# What follows is each on its own: optimizers, schedules, the order of rows


@pytest.mark.parametrize("name", SCHEDULES)
def test_schedules_are_those_of_transformers(name: str) -> None:
    recipe = RECIPE.change(schedule=name, lr=0.5, max_steps=9, warmup_steps=3)
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=recipe.lr)
    expected, rate = get_scheduler(name, optimizer, 3, 9), learning_rate(recipe)
    for step in range(10):
        assert rate(step) == pytest.approx(expected.get_last_lr()[0], abs=0)
        optimizer.step()
        expected.step()


def test_two_lanes_read_rows_of_like_lengths_in_the_same_step() -> None:
    lengths = [10 * (index % 9 + 1) for index in range(90)]
    one, other = (RowOrder(lengths, 4, seed) for seed in (1, 2))
    assert sorted(one.at(5)) != sorted(other.at(5))
    steps = range(3 * 23)
    means = [
        [sum(lengths[index] for index in rows) / len(rows) for rows in map(order.at, steps)] for order in (one, other)
    ]
    apart = sum(abs(mine - theirs) for mine, theirs in zip(*means, strict=True)) / len(steps)
    shuffled = sum(abs(mine - theirs) for mine, theirs in zip(means[0], means[1][::-1], strict=True)) / len(steps)
    assert apart < shuffled / 3
