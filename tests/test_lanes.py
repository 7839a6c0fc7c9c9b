"""Several tunings in one pass: each against a plain loop of its own, who comes and goes, and what fails."""

import statistics
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
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
from headstart.errors import LanesError, OutputError, SettingError, TaskError
from headstart.evaluating.evaluation import Evaluation
from headstart.events import Event, Listener, Note, Progress
from headstart.kinds import Module, stack_of
from headstart.kinds.headed import HeadedStack
from headstart.tasks import Task
from headstart.tuning.lane import Lane, Tuned
from headstart.tuning.lanes import tune_lanes
from headstart.tuning.pack import Pack
from headstart.tuning.recipes import Recipe
from headstart.tuning.run import Run, text_format_of
from headstart.tuning.width import Width
from naive import REVIEWS, assert_untouched, photograph
from test_tuning import RECIPE, TASK

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


def task_of(rows: slice) -> Task:
    return replace(TASK, splits={"train": REVIEWS[rows], "dev": REVIEWS})


def tune(
    task: Task,
    backbone: Backbone,
    *,
    recipe: Recipe,
    seed: int = 0,
    checkpoint: Path | None = None,
    progress: Listener | None = None,
) -> Tuned:
    """One lane, kept in no store."""
    lane = Lane(task, recipe=recipe, seed=seed, checkpoint=checkpoint)
    return dict(tune_lanes([lane], backbone, most=1, progress=progress))[0]


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


# Who comes and goes


def test_lanes_come_and_go(llama: Backbone) -> None:
    """Five lanes in two places, of unequal length: each is as if it had been alone, and done when it is done."""
    short = RECIPE.change(eval_every=3, patience=2, select="loss")
    lanes = [
        Lane(task_of(slice(0, 6)), recipe=short.change(max_steps=steps), seed=number)
        for number, steps in enumerate((9, 3, 4, 12, 5))
    ]
    found = list(tune_lanes(lanes, llama, most=2))
    assert [index for index, _ in found] == [1, 2, 0, 4, 3]
    for index, tuned in found:
        expected = tune(lanes[index].task, llama, recipe=lanes[index].recipe, seed=lanes[index].seed)
        assert [point.step for point in tuned.curve] == [point.step for point in expected.curve]
        assert tuned.best.step == expected.best.step
        assert largest_difference(tuned.module, expected.module) < 1e-5
        assert tuned.seconds > 0


def test_lanes_that_cannot_share_a_pass_take_their_turn(llama: Backbone, monkeypatch: pytest.MonkeyPatch) -> None:
    short = RECIPE.change(max_steps=2, eval_every=2)
    recipes = [
        short, short.change(rank=3), short.change(kind="prompt", length=3), short.change(optimizer="adafactor"), short,
    ]  # fmt: skip
    lanes = [Lane(TASK, recipe=recipe, seed=number) for number, recipe in enumerate(recipes)]
    packs = []
    make = Pack.__init__

    def watched(self: Pack, runs: Sequence[Run], backbone: Backbone) -> None:
        packs.append([run.lane.seed for run in runs])
        make(self, runs, backbone)

    monkeypatch.setattr(Pack, "__init__", watched)
    found = dict(tune_lanes(lanes, llama, most=8))
    assert packs == [[0, 4], [1], [2], [3]]
    assert [found[index].module.kind for index in range(5)] == ["lora", "lora", "prompt", "lora", "lora"]


def test_as_many_lanes_share_a_pass_as_keep_the_device_busy(llama: Backbone, monkeypatch: pytest.MonkeyPatch) -> None:
    lanes = [Lane(TASK, recipe=RECIPE.change(max_steps=14, eval_every=14), seed=seed) for seed in range(10)]
    rows = llama.encode([(example.text, example.target) for example in TASK.train], text_format_of(RECIPE))
    batch = RECIPE.batch_size * statistics.median(len(row.prompt) + len(row.target) for row in rows)
    monkeypatch.setattr(Backbone, "token_budget", int(4.5 * batch))
    make, widths, events = Pack.__init__, set(), list[Any]()

    def watched(self: Pack, runs: Sequence[Run], backbone: Backbone) -> None:
        widths.add(len(runs))
        make(self, runs, backbone)

    monkeypatch.setattr(Pack, "__init__", watched)
    found = dict(tune_lanes(lanes, llama, progress=events.append))
    assert widths == {4, 2}, "twice 4 lanes, then the last 2"
    assert sorted(found) == list(range(10))
    told = [event for event in events if isinstance(event, Progress)]
    assert (told[-1].what, told[-1].done, told[-1].total) == ("tuning 10 modules", 140, 140)
    assert [event.done for event in told] == sorted(event.done for event in told)
    expected = tune(TASK, llama, recipe=lanes[3].recipe, seed=3)
    assert largest_difference(found[3].module, expected.module) < 1e-5


def test_a_width_fills_the_budget() -> None:
    assert Width(None, budget=2048, lane_tokens=240).now == 8
    assert Width(None, budget=2048, lane_tokens=5000).now == 1
    assert Width(3, budget=2048, lane_tokens=5000).now == 3
    with pytest.raises(SettingError, match="most=0 lanes per pass must be at least 1; give 1 or more"):
        Width(0, budget=2048, lane_tokens=240)


def test_where_memory_runs_out_fewer_lanes_share_a_pass(llama: Backbone, monkeypatch: pytest.MonkeyPatch) -> None:
    find, widths = Pack.find_gradients, []

    def cramped(self: Pack) -> None:
        widths.append(len(self.runs))
        find(self)
        if len(self.runs) > 2:
            raise torch.OutOfMemoryError

    monkeypatch.setattr(Pack, "find_gradients", cramped)
    lanes = [Lane(TASK, recipe=RECIPE, seed=seed) for seed in range(4)]
    found = dict(tune_lanes(lanes, llama, most=4))
    assert (widths[0], set(widths[1:])) == (4, {2})
    for index, lane in enumerate(lanes):
        assert largest_difference(found[index].module, tune(TASK, llama, recipe=RECIPE, seed=lane.seed).module) < 1e-5

    def full(_: Pack) -> None:
        raise torch.OutOfMemoryError

    monkeypatch.setattr(Pack, "find_gradients", full)
    with pytest.raises(SettingError, match="a single lane does not fit into the device's memory; lower batch_size or"):
        tune(TASK, llama, recipe=RECIPE)


# What fails


def test_a_lane_that_fails_does_not_stop_the_others(llama: Backbone, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    short = RECIPE.change(max_steps=4)
    lanes = [
        Lane(replace(TASK, splits={"train": (), "dev": REVIEWS}), recipe=short, label="empty"),
        Lane(TASK, recipe=short, seed=1),
        Lane(TASK, recipe=short, seed=2, checkpoint=tmp_path / "file" / "x.partial"),
        Lane(TASK, recipe=short, seed=3),
    ]
    events: list[Event] = []
    found: dict[int, Tuned] = {}

    with pytest.raises(
        LanesError, match="2 of 4 tunings failed: empty: task 'reviews' has an empty train or"
    ) as caught:
        found.update(tune_lanes(lanes, llama, most=2, progress=events.append))
    assert sorted(found) == [1, 3]
    assert {index: type(error) for index, error in caught.value.failures.items()} == {0: TaskError, 2: OutputError}
    notes = [event.text for event in events if isinstance(event, Note)]
    assert [note.partition(":")[0] for note in notes] == [
        "empty failed, the others go on", "reviews, seed 2 failed, the others go on",
    ]  # fmt: skip
    assert largest_difference(found[3].module, tune(TASK, llama, recipe=short, seed=3).module) < 1e-5
