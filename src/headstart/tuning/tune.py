"""Tuning one module on one task: a loop that reads from top to bottom."""

import contextlib
import hashlib
import json
import math
import os
import random
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor
from transformers import get_scheduler
from transformers.optimization import Adafactor

from headstart.backbones import Backbone, Encoded, EncoderBackbone, Head, TextFormat, target_loss
from headstart.errors import ModuleError, OutputError, SettingError, TaskError
from headstart.kinds import Module, Stack, fresh_module, stack_of
from headstart.records import Donor
from headstart.tasks import Task, head_of
from headstart.tuning.evaluation import evaluate_attached
from headstart.tuning.recipes import RECIPES, Recipe

__all__ = ["CurvePoint", "Tuned", "text_format_of", "tune"]


OTHER_HEAD = "The start's task head is for another task or other labels, so a fresh one was tuned."
CUT_OFF = "{count} of {rows} training rows were left out: their answers lie beyond the {most} tokens of max_input."
UNMOVED = "No later state was better on the dev rows, so what is kept is the start itself, as it was."

WINDOW = 16
"""Batches whose rows are sorted by length together."""


@dataclass(frozen=True)
class CurvePoint:
    """One evaluation: after `step` updates; `train_loss` is the mean since the last evaluation (NaN at step 0)."""

    step: int
    train_loss: float
    dev_loss: float
    dev_score: float


@dataclass(frozen=True)
class Tuned:
    """A tuned module, the best of the run by dev score (ties: lower dev loss), and how it went.

    `notes`: what the caller may not expect, each as a sentence.
    """

    module: Module
    curve: tuple[CurvePoint, ...]
    best: CurvePoint
    seconds: float
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Progress:
    """What a running `tune` reports after each step."""

    step: int
    max_steps: int
    train_loss: float
    best_score: float | None


def tune(
    task: Task,
    backbone: Backbone,
    *,
    start: Module | None = None,
    recipe: Recipe | str = "few-shot",
    seed: int = 0,
    name: str | None = None,
    license: str = "",  # noqa: A002 - the field's own word, as on model cards
    checkpoint: Path | None = None,
    tracker: str | None = None,
    progress: Callable[[Progress], None] | None = None,
) -> Tuned:
    """Tune a module on `task.train`, keep the state with the best score on `task.dev`.

    Args:
        task: with train and dev splits.
        backbone: stays frozen; it may compute in bfloat16, the module's parameters are float32.
        start: where to begin; `None` is a fresh module of the recipe's kind and shape. On an encoder its task head is
            kept when it was tuned on this very task, and a fresh one tuned with it otherwise.
        recipe: a `Recipe` or the name of one.
        seed: of the fresh module and the order of the rows.
        name: of the tuned module; `None` is the task's name.
        license: of the tuned module, for its card.
        checkpoint: file that a killed run continues from; it is written at every evaluation. It is the caller's to
            remove once the module is saved.
        tracker: an accelerate tracker ("tensorboard", "wandb") that gets losses and scores.
        progress: called after every step.

    Raises:
        SettingError: unknown recipe, optimizer, schedule or tracker, or a checkpoint of another run.
        ModuleError: the start does not fit the backbone, or is a variant that only PEFT itself can tune.
        TaskError: a split is missing or empty, or no head on an encoder can answer the task.
    """
    recipe = RECIPES[recipe] if isinstance(recipe, str) else recipe
    name = name or task.name
    if start is None:
        start = fresh_module(recipe.kind, backbone, recipe.shape, name=name, seed=seed)
    if start.only_ranked:
        raise ModuleError(f"'{start.name}' is {start.only_ranked} that Headstart cannot tune; start from plain LoRA")
    start.check(backbone)
    head = _head(task, backbone, start, seed=seed)
    notes = [OTHER_HEAD] if start.head is not None and head is not start.head else []
    start = start.with_head(head)
    run = _Run(task, backbone, start, recipe=recipe, seed=seed, checkpoint=checkpoint, tracker=tracker)
    began = time.monotonic()
    with run.stack.attach(backbone):
        run.begin()
        while run.step < recipe.max_steps and run.stale < recipe.patience:
            loss = run.update()
            run.step += 1
            if run.step % recipe.eval_every == 0 or run.step == recipe.max_steps:
                run.evaluate()
                run.save()
            if progress:
                progress(Progress(run.step, recipe.max_steps, loss, run.best.dev_score if run.best else None))
    assert run.best is not None
    seconds = run.seconds_before + time.monotonic() - began
    module = run.finish(name=name, license_name=license)
    if run.left_out:
        notes.append(CUT_OFF.format(count=run.left_out, rows=len(task.train), most=recipe.max_input))
    if run.best.step == 0:
        notes.append(UNMOVED)
    return Tuned(module, tuple(run.curve), run.best, seconds, tuple(notes))


class _Run:
    """The state of one tuning run; everything in it is restored from a checkpoint."""

    def __init__(
        self,
        task: Task,
        backbone: Backbone,
        start: Module,
        *,
        recipe: Recipe,
        seed: int,
        checkpoint: Path | None,
        tracker: str | None,
    ) -> None:
        self.task, self.backbone, self.start, self.recipe, self.seed = task, backbone, start, recipe, seed
        self.text_format = text_format_of(recipe)
        self.dev = task.dev[: recipe.max_dev] if recipe.max_dev else task.dev
        pairs = [(example.input, example.target) for example in task.train]
        encoded = backbone.encode(pairs, self.text_format, head=start.card.head)
        if not encoded or not self.dev:
            raise TaskError(f"task '{task.name}' has an empty train or dev split; add rows to it")
        self.items = [item for item in encoded if not item.cut_off]
        self.left_out = len(encoded) - len(self.items)
        if not self.items:
            raise TaskError(
                f"no answer of the {len(encoded)} training rows of '{task.name}' lies within the first "
                f"{recipe.max_input} tokens of its input; raise max_input, or shorten the inputs"
            )
        self.stack: Stack = stack_of([start], backbone, dtype=torch.float32)
        self.parameters = [value.requires_grad_(True) for value in self.stack.parameters.values()]
        self.accelerator = _accelerator(backbone, tracker)
        if tracker:
            self.accelerator.init_trackers("headstart", config=recipe.model_dump(exclude={"shape"}))
        self.optimizer = self.accelerator.prepare(_optimizer(recipe, self.parameters))
        self.schedule = _schedule(recipe, self.optimizer)
        self.checkpoint = checkpoint
        self.step = self.stale = 0
        self.curve: list[CurvePoint] = []
        self.best: CurvePoint | None = None
        self.best_values: list[Tensor] = []
        self.losses: list[float] = []
        self.seconds_before = 0.0
        self._began = time.monotonic()
        self._epoch: tuple[int, list[list[int]]] = (-1, [])

    def begin(self) -> None:
        """Continue from the checkpoint, or evaluate the start."""
        if self.checkpoint and self.checkpoint.exists():
            self._restore(self.checkpoint)
        else:
            self.evaluate()

    def update(self) -> float:
        """One optimizer step on one batch; returns its mean `target_loss` per target token."""
        batch = self.backbone.batch(self.items, self._batch_at(self.step))
        logits = self.backbone.target_logits(batch)
        loss = target_loss(logits, batch.gold.to(logits.device)).mean()
        self.accelerator.backward(loss)
        if self.recipe.clip:
            self.accelerator.clip_grad_norm_(self.parameters, self.recipe.clip)
        self.optimizer.step()
        self.schedule.step()
        self.optimizer.zero_grad()
        self.losses.append(float(loss.detach()))
        return self.losses[-1]

    def evaluate(self) -> None:
        """Score the dev split; remember the state if it is the best so far."""
        metric, head = self.task.card.metric, self.start.card.head
        found = evaluate_attached(self.backbone, self.dev, metric=metric, text_format=self.text_format, head=head)[0]
        train_loss = sum(self.losses) / len(self.losses) if self.losses else math.nan
        point = CurvePoint(self.step, train_loss, found.loss, found.score)
        self.losses = []
        self.curve.append(point)
        logged = {"train_loss": train_loss, "dev_loss": found.loss, "dev_score": found.score}
        self.accelerator.log(logged, step=self.step)
        if self.best is None or self._worth(point) > self._worth(self.best):
            self.best, self.stale = point, 0
            self.best_values = [value.detach().clone() for value in self.parameters]
        else:
            self.stale += 1

    def save(self) -> None:
        """Write the whole state beside the checkpoint and rename it into place."""
        if self.checkpoint is None:
            return
        state = {
            "run": self._identity(), "step": self.step, "stale": self.stale,
            "parameters": [value.detach() for value in self.parameters], "best_values": self.best_values,
            "optimizer": self.optimizer.state_dict(), "schedule": self.schedule.state_dict(),
            "curve": [asdict(point) for point in self.curve], "best": asdict(self.best) if self.best else None,
            "seconds": self.seconds_before + time.monotonic() - self._began,
        }  # fmt: skip
        staging = self.checkpoint.with_name(f"{self.checkpoint.name}.writing")
        try:
            self.checkpoint.parent.mkdir(parents=True, exist_ok=True)
            torch.save(state, staging)
            os.replace(staging, self.checkpoint)  # noqa: PTH105 - atomic on every system
        except (OSError, RuntimeError) as error:
            with contextlib.suppress(OSError):
                staging.unlink()
            raise OutputError(
                f"cannot write {self.checkpoint}: {error}; free some space and run the command again"
            ) from error

    def finish(self, *, name: str, license_name: str) -> Module:
        """The best module with its card; the checkpoint is not needed any more once the module is saved."""
        assert self.best is not None
        with torch.no_grad():
            for value, best in zip(self.parameters, self.best_values, strict=True):
                value.copy_(best)
        self.accelerator.end_training()
        module = self.stack.module(0)
        data = sorted({self.task.card.license, self.start.card.dataset_license} - {""})
        card = module.card.model_copy(
            update={
                "name": name, "task": self.task.name, "family": self.task.card.family, "metric": self.task.card.metric,
                "score": None if math.isnan(self.best.dev_score) else self.best.dev_score,
                "train_rows": len(self.items), "license": license_name or self.start.card.license,
                "dataset_license": "; ".join(data), "donors": _donors(self.start),
                "backbone": self.backbone.fingerprint,
                "base_model": self.backbone.name, "tensor_hash": "",
                "text_format": self.backbone.encoder.layout(self.text_format),
                "notes": f"Tuned with recipe '{self.recipe.name}', seed {self.seed}; "
                f"best at step {self.best.step} of {self.step}.",
            }
        )  # fmt: skip
        return replace(module, card=card)

    def _batch_at(self, step: int) -> list[int]:
        """The rows of a step: an epoch is shuffled, cut into batches of like lengths, and these are shuffled again."""
        size = min(self.recipe.batch_size, len(self.items))
        per_epoch = math.ceil(len(self.items) / size)
        epoch, place = divmod(step, per_epoch)
        if self._epoch[0] != epoch:
            self._epoch = (epoch, _epoch_batches(self.items, size, random.Random(f"{self.seed}/{epoch}")))
        return self._epoch[1][place]

    def _worth(self, point: CurvePoint) -> tuple[float, float]:
        # Nothing compares with NaN: as the first state it would stay the best for ever.
        score, low_loss = (-math.inf if math.isnan(value) else value for value in (point.dev_score, -point.dev_loss))
        return (score, low_loss) if self.recipe.select == "score" else (low_loss, score)

    def _identity(self) -> str:
        parts = [
            self.recipe.to_json(), str(self.seed), self.task.fingerprint("train"), self.task.fingerprint("dev"),
            self.backbone.fingerprint.weights, str(self.backbone.dtype),
            self.start.digest(),
        ]  # fmt: skip
        return hashlib.sha256(json.dumps(parts).encode()).hexdigest()

    def _restore(self, path: Path) -> None:
        try:
            state: dict[str, Any] = torch.load(path, weights_only=True)
            run = state["run"]
        except Exception as error:
            raise OutputError(f"{path} cannot be read as a checkpoint; remove it to start over") from error
        if run != self._identity():
            raise SettingError(
                f"{path} is the checkpoint of a run with other settings, data or backbone; "
                "remove it to start over, or repeat the settings to continue"
            )
        with torch.no_grad():
            for value, saved in zip(self.parameters, state["parameters"], strict=True):
                value.copy_(saved)
        self.optimizer.load_state_dict(state["optimizer"])
        self.schedule.load_state_dict(state["schedule"])
        self.step, self.stale = state["step"], state["stale"]
        self.curve = [CurvePoint(**point) for point in state["curve"]]
        self.best = CurvePoint(**state["best"])
        self.best_values = state["best_values"]
        self.seconds_before = state["seconds"]


def _head(task: Task, backbone: Backbone, start: Module, *, seed: int) -> Head | None:
    """The task head to begin with on an encoder: the start's own when it was tuned on this task, else a fresh one."""
    if not isinstance(backbone, EncoderBackbone):
        return None
    wanted, own = head_of(task.card), start.head
    if own is not None and start.card.task == task.name and own.card.answers_as(wanted):
        return own
    return backbone.fresh_head(wanted, seed=seed)


def text_format_of(recipe: Recipe) -> TextFormat:
    """The text layout that a recipe tunes with."""
    return TextFormat(max_input=recipe.max_input, max_target=recipe.max_target)


def _donors(start: Module) -> tuple[Donor, ...]:
    """What a tuned module grew from: a blend's donors, or the stored module it began with; a fresh one has none."""
    card = start.card
    if card.donors or not card.tensor_hash:
        return card.donors
    return (Donor(name=card.name, tensor_hash=card.tensor_hash, weight=1.0, license=card.license),)


def _epoch_batches(items: Sequence[Encoded], size: int, rng: random.Random) -> list[list[int]]:
    """The rows of one epoch in batches of like lengths, in random order."""
    order = list(range(len(items)))
    rng.shuffle(order)
    batches = []
    for start in range(0, len(order), size * WINDOW):
        # Lengths are blurred by a third, or few rows would meet in the same batches in every epoch.
        blurred = {
            index: len(items[index].prompt) * rng.uniform(0.75, 1.33) for index in order[start : start + size * WINDOW]
        }
        near = sorted(blurred, key=lambda index: blurred[index])
        batches += [near[first : first + size] for first in range(0, len(near), size)]
    rng.shuffle(batches)
    return batches


def _accelerator(backbone: Backbone, tracker: str | None) -> Accelerator:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # of a tracker that is not installed; said below
            accelerator = Accelerator(cpu=backbone.device.type == "cpu", log_with=tracker, project_dir=".")
    except ValueError as error:
        raise SettingError(f"unknown tracker '{tracker}' ({error}); choose another or leave it out") from error
    if tracker and not accelerator.log_with:
        raise SettingError(f"the tracker '{tracker}' is not installed; install its package or leave it out")
    return accelerator


def _optimizer(recipe: Recipe, parameters: list[Tensor]) -> torch.optim.Optimizer:
    if recipe.optimizer == "adamw":
        return torch.optim.AdamW(parameters, lr=recipe.lr, weight_decay=recipe.weight_decay)
    if recipe.optimizer == "adafactor":
        adafactor: torch.optim.Optimizer = Adafactor(
            parameters, lr=recipe.lr, weight_decay=recipe.weight_decay, scale_parameter=False, relative_step=False
        )
        return adafactor
    raise SettingError(f"unknown optimizer '{recipe.optimizer}'; choose one of: adamw, adafactor")


def _schedule(recipe: Recipe, optimizer: torch.optim.Optimizer) -> Any:
    try:
        return get_scheduler(
            recipe.schedule, optimizer, num_warmup_steps=recipe.warmup_steps, num_training_steps=recipe.max_steps
        )
    except ValueError as error:
        raise SettingError(
            f"unknown schedule '{recipe.schedule}'; choose one of transformers' names, such as linear"
        ) from error
