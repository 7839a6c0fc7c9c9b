"""What a lane keeps and tells: checkpoints, dropout, progress, optimizers, schedules, the order of rows."""

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import normalizers
from transformers import get_scheduler

from headstart.backbones import Backbone
from headstart.errors import SettingError
from headstart.evaluating.evaluation import Evaluation
from headstart.events import Event, Progress
from headstart.tuning.checkpoint import read_checkpoint, write_checkpoint
from headstart.tuning.lane import Lane
from headstart.tuning.lanes import tune_lanes
from headstart.tuning.optimizers import OPTIMIZERS
from headstart.tuning.order import RowOrder
from headstart.tuning.recipes import SCHEDULES
from headstart.tuning.run import Run
from headstart.tuning.schedules import learning_rate
from headstart.tuning.tune import tune as tune_one
from naive import assert_same_parameters, load
from test_lanes import tune
from test_tuning import RECIPE, TASK, PowerCut

# Checkpoints


def cut_at(steps: int) -> Callable[[Event], None]:
    """A listener that ends the run when so many steps are done, over all lanes."""

    def listen(event: Event) -> None:
        if isinstance(event, Progress) and event.done == steps:
            raise PowerCut

    return listen


def test_killed_lanes_continue_as_if_nothing_had_happened(llama: Backbone, tmp_path: Path) -> None:
    def lanes(folder: str) -> list[Lane]:
        recipes = [RECIPE.change(lr=1e-3 * number) for number in (1, 2, 3)]
        return [
            Lane(TASK, recipe=recipe, seed=number, checkpoint=tmp_path / folder / str(number))
            for number, recipe in enumerate(recipes)
        ]

    whole = dict(tune_lanes(lanes("whole"), llama, most=3))
    with pytest.raises(PowerCut):
        dict(tune_lanes(lanes("cut"), llama, most=3, progress=cut_at(3 * 6)))
    continued = dict(tune_lanes(lanes("cut"), llama, most=3))
    for index in range(3):
        assert repr(continued[index].curve) == repr(whole[index].curve)
        assert_same_parameters(continued[index].module, whole[index].module)


def test_a_run_continues_where_it_was_a_minute_ago(
    llama: Backbone, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("headstart.tuning.run.SAVE_EVERY", 0.0)
    whole = tune(TASK, llama, recipe=RECIPE)
    with pytest.raises(PowerCut):
        tune(TASK, llama, recipe=RECIPE, checkpoint=tmp_path / "x", progress=cut_at(3))
    events: list[Any] = []
    again = tune(TASK, llama, recipe=RECIPE, checkpoint=tmp_path / "x", progress=events.append)
    steps = [event.done for event in events if isinstance(event, Progress)]
    assert steps[0] == 4, "there was no evaluation but that of the start"
    assert repr(again.curve) == repr(whole.curve)
    assert_same_parameters(again.module, whole.module)


def test_the_seconds_of_all_processes_count(llama: Backbone, tmp_path: Path) -> None:
    checkpoint = tmp_path / "x"
    with pytest.raises(PowerCut):
        tune(TASK, llama, recipe=RECIPE, checkpoint=checkpoint, progress=cut_at(8))
    state = torch.load(checkpoint, weights_only=True)
    torch.save({**state, "seconds": 1000.0}, checkpoint)
    assert 1000 < tune(TASK, llama, recipe=RECIPE, checkpoint=checkpoint).seconds < 1100


def test_a_checkpoint_from_another_device_is_continued(
    llama: Backbone, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoint = tmp_path / "x"
    with monkeypatch.context() as there:
        # What torch writes of a tensor on a CUDA device; where there is none, it has to be told where tensors go.
        there.setattr(torch.serialization, "location_tag", lambda _: "cuda:0")
        with pytest.raises(PowerCut):
            tune(TASK, llama, recipe=RECIPE, checkpoint=checkpoint, progress=cut_at(8))
    if not torch.cuda.is_available():
        with pytest.raises(RuntimeError, match="CUDA"):
            torch.load(checkpoint, weights_only=True)
    continued = tune(TASK, llama, recipe=RECIPE, checkpoint=checkpoint)
    assert_same_parameters(continued.module, tune(TASK, llama, recipe=RECIPE).module)


@pytest.mark.parametrize("changed", ["tokenizer", "optimizer"])
def test_a_checkpoint_of_other_tokens_or_updates_is_refused(
    changed: str, tiny_llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoint, backbone = tmp_path / "run.partial", load(tiny_llama)
    with pytest.raises(PowerCut):
        tune_one(TASK, backbone, recipe=RECIPE, checkpoint=checkpoint, progress=cut_at(8))
    if changed == "tokenizer":
        backbone.tokenizer.backend_tokenizer.normalizer = normalizers.Lowercase()
        backbone = Backbone(backbone.model, backbone.tokenizer, name=backbone.name)
    else:
        monkeypatch.setattr(type(OPTIMIZERS[RECIPE.optimizer]), "version", 9)
    with pytest.raises(SettingError, match=r"run with other settings, data or backbone; remove it to start over"):
        tune_one(TASK, backbone, recipe=RECIPE, checkpoint=checkpoint)


def test_two_runs_with_one_checkpoint_do_not_disturb_one_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, save = tmp_path / "x", torch.save

    def meanwhile(state: dict[str, Any], file: Path) -> None:
        save(state, file)
        if state["step"] == 1:
            write_checkpoint(path, {"step": 2}, identity="run")

    monkeypatch.setattr(torch, "save", meanwhile)
    write_checkpoint(path, {"step": 1}, identity="run")
    assert read_checkpoint(path, identity="run") == {"step": 1}
    assert [found.name for found in tmp_path.iterdir()] == ["x"]


def test_what_a_killed_run_left_half_written_is_swept(tmp_path: Path) -> None:
    path = tmp_path / "x"
    for name, age in ((".x.0a.writing", 7200), (".x.0b.writing", 0), (".y.0a.writing", 7200)):
        (tmp_path / name).write_text("half")
        os.utime(tmp_path / name, (time.time() - age,) * 2)
    write_checkpoint(path, {}, identity="run")
    read_checkpoint(path, identity="run")
    assert sorted(found.name for found in tmp_path.iterdir()) == [".x.0b.writing", ".y.0a.writing", "x"]


# Dropout


def test_dropout_is_drawn_from_the_seed(gpt2: Backbone, tmp_path: Path) -> None:
    assert gpt2.model.config.resid_pdrop > 0
    recipe = RECIPE.change(dropout=True, targets=("c_attn",), select="loss")
    whole, other = (tune(TASK, gpt2, recipe=recipe.change(dropout=on)) for on in (True, False))
    assert not gpt2.model.training
    assert repr(whole.curve[0]) == repr(other.curve[0]), "nothing is dropped in an evaluation"
    assert whole.curve[1].train_loss != pytest.approx(other.curve[1].train_loss, abs=1e-4)
    torch.manual_seed(99)
    before = torch.random.get_rng_state()
    with pytest.raises(PowerCut):
        tune(TASK, gpt2, recipe=recipe, checkpoint=tmp_path / "x", progress=cut_at(6))
    assert not gpt2.model.training
    assert torch.equal(torch.random.get_rng_state(), before), "the caller's generator is left alone"
    assert repr(tune(TASK, gpt2, recipe=recipe, checkpoint=tmp_path / "x").curve) == repr(whole.curve)


# What is told


def test_a_score_that_is_not_defined_is_not_zero(llama: Backbone, monkeypatch: pytest.MonkeyPatch) -> None:
    evaluated = Run.evaluated
    nothing = Evaluation("ACC", float("nan"), 1.0, (), "options")
    monkeypatch.setattr(Run, "evaluated", lambda self, _, *, seconds: evaluated(self, nothing, seconds=seconds))
    events: list[Any] = []
    tune(TASK, llama, recipe=RECIPE.change(max_steps=2, eval_every=2), progress=events.append)
    assert events[0].note.endswith("best dev undefined")
    told = [event for event in events if isinstance(event, Progress)]
    assert (told[0].what, told[0].done, told[0].total) == ("tuning reviews, seed 0", 1, 2)


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
