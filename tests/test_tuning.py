"""The tuning loop: against a plain loop over a PEFT model, killed and continued, stopped early."""

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import made_by_peft
from headstart.backbones import Backbone
from headstart.errors import OutputError, SettingError
from headstart.evaluating.evaluate_many import evaluate_many
from headstart.evaluating.evaluation import Evaluation
from headstart.events import Event, Progress
from headstart.indicators.engine import score
from headstart.kinds import Module, save_module
from headstart.records import TaskCard
from headstart.tasks import Task
from headstart.tuning.layout import Layout
from headstart.tuning.recipes import Recipe
from headstart.tuning.run import Run
from headstart.tuning.tune import CurvePoint, Tuned, text_format_of, tune
from naive import (
    REVIEWS,
    assert_close,
    assert_same_parameters,
    assert_untouched,
    load,
    photograph,
    plain_logits,
    random_lora,
)

CARD = TaskCard(name="reviews", family="sentiment", metric="ACC", labels=("positive", "negative"), license="cc0-1.0")
TASK = Task(CARD, {"train": REVIEWS, "dev": REVIEWS[:4]})
RECIPE = Recipe(
    name="tiny", lr=5e-3, batch_size=2, max_steps=12, eval_every=4, patience=9, optimizer="adamw", schedule="linear",
    warmup_steps=2, clip=1.0, max_input=64, max_target=8, shape={"rank": 2, "alpha": 4.0},
)  # fmt: skip


class PowerCut(BaseException):
    """The run ends here, past every `except Exception`."""


def kill_at(step: int) -> Callable[[Event], None]:
    def progress(event: Event) -> None:
        if isinstance(event, Progress) and event.done == step:
            raise PowerCut

    return progress


def assert_same_run(actual: Tuned, expected: Tuned) -> None:
    assert repr(actual.curve) == repr(expected.curve)  # by repr, because NaN is not equal to itself
    assert actual.best == expected.best
    assert_same_parameters(actual.module, expected.module)
    assert actual.module.card == expected.module.card


# The loop


@pytest.mark.parametrize("name", ["tiny_llama", "tiny_gpt2", "tiny_t5"])
def test_it_learns_and_leaves_the_backbone_alone(name: str, request: pytest.FixtureRequest) -> None:
    backbone = load(request.getfixturevalue(name))
    before = photograph(backbone)
    tuned = tune(TASK, backbone, recipe=RECIPE.change(max_steps=24, eval_every=8, lr=2e-2, select="loss"))
    assert_untouched(backbone, before)
    assert [point.step for point in tuned.curve] == [0, 8, 16, 24]
    assert math.isnan(tuned.curve[0].train_loss)
    losses = [point.dev_loss for point in tuned.curve]
    assert min(losses) < 0.7 * losses[0]
    assert tuned.curve[-1].train_loss < tuned.curve[1].train_loss
    assert tuned.best.dev_loss == min(losses)
    assert tuned.seconds > 0


def test_the_curve_tells_what_evaluation_and_scoring_find(llama: Backbone) -> None:
    tuned = tune(TASK, llama, recipe=RECIPE)
    (found,) = evaluate_many([tuned.module], TASK.dev, llama, metric="ACC", text_format=text_format_of(RECIPE))
    assert found.score == tuned.best.dev_score
    assert found.loss == pytest.approx(tuned.best.dev_loss, abs=1e-5)
    (loss,) = score([tuned.module], TASK.dev, llama, indicators=["loss"], text_format=text_format_of(RECIPE)).values[
        "loss"
    ]
    assert -loss == pytest.approx(tuned.best.dev_loss, abs=1e-5)


def plain_loop(backbone: Backbone, folder: Path, start: Path, *, lr: float, steps: int, clip: float) -> dict[str, Any]:
    """Textbook PyTorch over a PEFT model: all rows in every batch, one row a forward pass, AdamW."""
    from peft import PeftModel, get_peft_model_state_dict

    model = PeftModel.from_pretrained(made_by_peft.fresh_model(folder), start, is_trainable=True).eval()
    parameters = [value for value in model.parameters() if value.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=lr, weight_decay=0.01)
    items = backbone.encode([(row.input, row.target) for row in TASK.train], text_format_of(RECIPE))
    tokens = sum(len(item.target) for item in items)
    for _ in range(steps):
        for item in items:
            logits = plain_logits(model, item)
            loss = torch.nn.functional.cross_entropy(logits, torch.tensor(item.target), reduction="sum") / tokens
            loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, clip)
        optimizer.step()
        optimizer.zero_grad()
    return dict(get_peft_model_state_dict(model, save_embedding_layers=False))


@pytest.mark.parametrize("name", ["tiny_llama", "tiny_gpt2", "tiny_t5"])
def test_it_is_a_plain_loop_over_a_peft_model(name: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    folder = request.getfixturevalue(name)
    backbone = load(folder)
    start = save_module(random_lora(backbone, seed=1, size=0.1), tmp_path / "start")
    recipe = RECIPE.change(
        lr=1e-3, batch_size=len(REVIEWS), max_steps=4, eval_every=4, schedule="constant", warmup_steps=0,
        weight_decay=0.01, clip=0.5, select="loss",
    )  # fmt: skip
    tuned = tune(TASK, backbone, start=start, recipe=recipe)
    assert tuned.best.step == 4, "the state compared must be the last one"
    expected = plain_loop(backbone, folder, tmp_path / "start", lr=1e-3, steps=4, clip=0.5)
    found, began = tuned.module.state_dict(), start.state_dict()
    assert found.keys() == expected.keys()
    for key, value in found.items():
        assert_close(value, expected[key], within=1e-5)
    assert max((found[key] - began[key]).abs().max().item() for key in found) > 1e-3, "it must have moved"


def test_the_seed_decides(llama: Backbone) -> None:
    first, again, other = (tune(TASK, llama, recipe=RECIPE, seed=seed) for seed in (1, 1, 2))
    assert_same_run(first, again)
    with pytest.raises(AssertionError):
        assert_same_run(first, other)


def test_a_run_does_not_depend_on_the_state_of_the_generators(llama: Backbone) -> None:
    first = tune(TASK, llama, recipe=RECIPE)
    torch.manual_seed(99)
    assert_same_run(tune(TASK, llama, recipe=RECIPE), first)


@pytest.mark.parametrize("optimizer", ["adamw", "adafactor"])
@pytest.mark.parametrize("schedule", ["linear", "constant_with_warmup", "cosine"])
def test_optimizers_and_schedules(llama: Backbone, optimizer: str, schedule: str) -> None:
    recipe = RECIPE.change(optimizer=optimizer, schedule=schedule, max_steps=8, select="loss", lr=1e-2)
    tuned = tune(TASK, llama, recipe=recipe)
    assert tuned.best.step == 8
    assert tuned.best.dev_loss < tuned.curve[0].dev_loss


def test_bfloat16_backbone_float32_module(tiny_llama: Path) -> None:
    backbone = load(tiny_llama, "bfloat16")
    tuned = tune(TASK, backbone, recipe=RECIPE.change(select="loss", lr=1e-2))
    assert all(value.dtype == torch.float32 for value in tuned.module.parameters().values())
    assert tuned.best.dev_loss < tuned.curve[0].dev_loss
    tuned.module.check(load(tiny_llama))


# The best state, and stopping


def scripted(monkeypatch: pytest.MonkeyPatch, points: list[tuple[float, float]]) -> list[torch.Tensor]:
    """Let the dev evaluations give these (score, loss) in turn; returns what the parameters were at each."""
    script, states = iter(points), []
    evaluated = Run.evaluated

    def given(self: Run, _: Evaluation, *, seconds: float) -> None:
        states.append(torch.cat([block.flatten() for block in self.values.values()]))
        score, loss = next(script)
        evaluated(self, Evaluation("ACC", score, loss, (), "options"), seconds=seconds)

    monkeypatch.setattr(Run, "evaluated", given)
    return states


def as_row(module: Module) -> torch.Tensor:
    """A module's parameters as the loop lays them out."""
    parameters = {name: value.unsqueeze(0) for name, value in module.parameters().items()}
    return torch.cat([block.flatten() for block in Layout.of(parameters).blocks(parameters)])


@pytest.mark.parametrize(
    ("select", "points", "best"),
    [
        ("score", [(0.1, 9.0), (0.5, 2.0), (0.3, 1.0), (0.4, 0.5)], 1),
        ("score", [(0.5, 9.0), (0.5, 2.0), (0.5, 3.0), (0.2, 0.5)], 1),  # ties go to the lower loss
        ("score", [(math.nan, 1.0), (0.0, 9.0), (math.nan, 0.1), (0.0, 9.0)], 1),  # undefined is below 0
        ("loss", [(0.9, 9.0), (0.1, 2.0), (0.1, 1.0), (0.9, 1.5)], 2),
        ("score", [(0.9, 1.0), (0.1, 2.0), (0.1, 2.0), (0.1, 2.0)], 0),
    ],
)
def test_the_best_state_is_kept(
    llama: Backbone, monkeypatch: pytest.MonkeyPatch, select: str, points: list[tuple[float, float]], best: int
) -> None:
    states = scripted(monkeypatch, points)
    tuned = tune(TASK, llama, recipe=RECIPE.change(select=select))
    assert tuned.best.step == 4 * best
    assert len(states) == 4
    assert torch.equal(as_row(tuned.module), states[best])
    assert not torch.equal(states[best], states[best - 1])


@pytest.mark.parametrize("select", ["score", "loss"])
def test_a_state_whose_predictions_are_not_numbers_is_never_the_best(
    select: str, llama: Backbone, monkeypatch: pytest.MonkeyPatch
) -> None:
    # NaN first, and after the best: the second of four evaluations wins, whichever number decides.
    scripted(monkeypatch, [(math.nan, math.nan), (0.5, 1.0), (math.nan, math.nan), (0.4, 2.0)])
    assert tune(TASK, llama, recipe=RECIPE.change(select=select)).best.step == 4


def test_patience_counts_evaluations_without_a_better_score(llama: Backbone, monkeypatch: pytest.MonkeyPatch) -> None:
    # 0.1, then 0.2 is better, then two that are not: with patience 2 the run ends at the fourth evaluation.
    scripted(monkeypatch, [(0.1, 1.0), (0.2, 1.0), (0.2, 1.0), (0.1, 1.0), (0.9, 0.1)])
    tuned = tune(TASK, llama, recipe=RECIPE.change(max_steps=40, patience=2))
    assert [point.step for point in tuned.curve] == [0, 4, 8, 12]
    assert tuned.best == CurvePoint(4, tuned.curve[1].train_loss, 1.0, 0.2)


def test_the_last_step_is_always_evaluated(llama: Backbone) -> None:
    assert [point.step for point in tune(TASK, llama, recipe=RECIPE.change(max_steps=6)).curve] == [0, 4, 6]


# PowerCut and continued


@pytest.mark.parametrize("optimizer", ["adamw", "adafactor"])
@pytest.mark.parametrize("step", [3, 4, 7, 11])
def test_a_killed_run_continues_as_if_nothing_had_happened(
    llama: Backbone, tmp_path: Path, step: int, optimizer: str
) -> None:
    recipe, checkpoint = RECIPE.change(optimizer=optimizer), tmp_path / "below" / "run.partial"
    before = photograph(llama)
    whole = tune(TASK, llama, recipe=recipe, store=False)
    with pytest.raises(PowerCut):
        tune(TASK, llama, recipe=recipe, checkpoint=checkpoint, progress=kill_at(step))
    assert_untouched(llama, before)
    assert checkpoint.exists()
    events: list[Event] = []
    continued = tune(TASK, llama, recipe=recipe, checkpoint=checkpoint, progress=events.append)
    steps = [event.done for event in events if isinstance(event, Progress)]
    assert steps[0] == step // 4 * 4 + 1
    assert_same_run(continued, whole)
    assert [path.name for path in checkpoint.parent.iterdir()] == ["run.partial"]


def test_the_best_state_outlives_a_power_cut(llama: Backbone, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Best at step 4; the power goes at step 10, after the evaluation at step 8; the rest is worse.
    states = scripted(monkeypatch, [(0.1, 1.0), (0.9, 1.0), (0.2, 1.0), (0.1, 1.0)])
    with pytest.raises(PowerCut):
        tune(TASK, llama, recipe=RECIPE, checkpoint=tmp_path / "run.partial", progress=kill_at(10))
    tuned = tune(TASK, llama, recipe=RECIPE, checkpoint=tmp_path / "run.partial")
    assert tuned.best.step == 4
    assert torch.equal(as_row(tuned.module), states[1])


def test_a_finished_run_is_not_run_again(llama: Backbone, tmp_path: Path) -> None:
    checkpoint = tmp_path / "run.partial"
    whole = tune(TASK, llama, recipe=RECIPE, checkpoint=checkpoint, store=False)
    again = tune(TASK, llama, recipe=RECIPE, checkpoint=checkpoint, store=False, progress=kill_at(12))
    assert_same_run(again, whole)


def test_the_checkpoint_of_another_run_is_refused(llama: Backbone, tiny_llama: Path, tmp_path: Path) -> None:
    checkpoint = tmp_path / "run.partial"
    start = random_lora(llama, seed=1)
    with pytest.raises(PowerCut):
        tune(TASK, llama, start=start, recipe=RECIPE, checkpoint=checkpoint, progress=kill_at(5))
    kept = checkpoint.read_bytes()
    fewer = replace(TASK, splits={"train": REVIEWS[:-1], "dev": REVIEWS[:4]})
    others: list[dict[str, Any]] = [
        {"seed": 1},
        {"recipe": RECIPE.change(lr=1e-9)},
        {"start": random_lora(llama, seed=2)},
        {"start": random_lora(llama, seed=1, alpha=7.0)},
        {"task": fewer},
        {"backbone": load(tiny_llama, "bfloat16")},
    ]
    for other in others:
        settings = {"task": TASK, "backbone": llama, "start": start, "recipe": RECIPE} | other
        with pytest.raises(SettingError, match=r"run\.partial is the checkpoint of a run with other settings, data"):
            tune(settings.pop("task"), settings.pop("backbone"), checkpoint=checkpoint, **settings)
    assert checkpoint.read_bytes() == kept
    tune(TASK, llama, start=start, recipe=RECIPE, checkpoint=checkpoint)


@pytest.mark.parametrize("content", [b"", b"not a checkpoint", None])
def test_a_broken_checkpoint_is_named(llama: Backbone, tmp_path: Path, content: bytes | None) -> None:
    checkpoint = tmp_path / "run.partial"
    if content is None:
        torch.save([1, 2], checkpoint)
    else:
        checkpoint.write_bytes(content)
    with pytest.raises(OutputError, match=r"run\.partial cannot be read as a checkpoint; remove it to start over"):
        tune(TASK, llama, recipe=RECIPE, checkpoint=checkpoint)


def test_a_checkpoint_that_cannot_be_written(llama: Backbone, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(OutputError, match=r"cannot write .*file.*free some space and run the command again"):
        tune(TASK, llama, recipe=RECIPE, checkpoint=tmp_path / "file" / "run.partial")


# The result
