"""The state of one lane: its rows, tensors, curve and best state, all of which survive a power cut."""

from __future__ import annotations

import hashlib
import json
import math
import statistics
import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from headstart.backbones import Backbone, BackboneInput, Encoded, EncoderBackbone, Head, TextFormat
from headstart.errors import ModuleError, OutputError, SettingError, TaskError
from headstart.evaluating.evaluation import Evaluation
from headstart.kinds import History, Module, fresh_module, stack_of
from headstart.records import Donor, ModuleCard, TaskCard
from headstart.tasks import METRICS, Task, head_of
from headstart.tuning.checkpoint import read_checkpoint, write_checkpoint
from headstart.tuning.lane import CurvePoint, Lane, Tuned
from headstart.tuning.layout import Layout
from headstart.tuning.optimizers import OPTIMIZERS
from headstart.tuning.order import RowOrder
from headstart.tuning.recipes import Recipe
from headstart.tuning.schedules import learning_rate
from headstart.tuning.tracking import Tracker

__all__ = ["Run", "dataset_license", "donors_of", "task_facts", "text_format_of"]


OTHER_HEAD = "The start's task head is for another task or other labels, so a fresh one was tuned."
CUT_OFF = "{count} of {rows} training rows were left out: their answers lie beyond the {most} tokens of max_input."
NO_EARLY = "It ended before step {step}, so no early state was kept."
UNMOVED = "No later state was better on the dev rows, so what is kept is the start itself, as it was."
UNTUNED = (
    "No later state was better on the dev rows by {by}, so what is kept is a fresh module, as if nothing had been "
    "tuned; tune for longer (--set max_steps={steps}, recipe.change(max_steps={steps}) in Python){other}."
)
BY_LOSS = ", or choose the state by its loss (select=loss)"

SAVE_EVERY = 60.0
"""Seconds between two checkpoints if evaluations are further apart."""


class Run:
    """One lane as it is tuned.

    Args:
        lane: what is to be tuned.
        backbone: the frozen model.

    Raises:
        SettingError, ModuleError, TaskError: the lane cannot be tuned as asked; see `tune`.
        OutputError: its checkpoint cannot be read.

    `values` holds the parameters in the blocks (G, …) of `layout`, `state` the optimizer's tensors; while the lane
    shares passes, both are views of the pack's tensors. `losses` are those since the last evaluation.
    `batch_tokens`: tokens of a typical batch; `largest`: rows of a batch, and tokens of the longest one.
    """

    def __init__(self, lane: Lane, backbone: Backbone) -> None:
        self.lane, self.recipe, self.backbone = lane, lane.recipe, backbone
        self.text_format = text_format_of(lane.recipe)
        self.notes: list[str] = []
        self.start = self._started()
        dev = lane.task.dev
        self.dev = dev[: self.recipe.max_dev] if self.recipe.max_dev else dev
        seen = replace(lane.task, splits={"train": lane.task.train, "dev": self.dev})
        self.train_key, self.dev_key = seen.fingerprint("train"), seen.fingerprint("dev")
        self.items = self._train_items()
        size = min(self.recipe.batch_size, len(self.items))
        lengths = [len(item.prompt) + len(item.target) for item in self.items]
        self.batch_tokens, self.largest = size * int(statistics.median(lengths)), (size, max(lengths))
        self.order = RowOrder([len(item.prompt) for item in self.items], size, lane.seed)
        self.learning_rate = learning_rate(self.recipe)
        self.step = self.stale = 0
        self.curve: list[CurvePoint] = []
        self.best: CurvePoint | None = None
        self.best_values: dict[str, Tensor] = {}
        self.losses: list[float] = []
        self.seconds = 0.0
        self._saved, self._unsaved = time.monotonic(), False
        self.tracker = Tracker(lane.tracker, lane.recipe, on_cpu=backbone.device.type == "cpu")
        parameters = stack_of([self.start], backbone, dtype=torch.float32).parameters
        self.layout = Layout.of(parameters)
        self.early_values: dict[str, Tensor] = {}
        self.values: dict[str, Tensor] = {}
        self.state: dict[str, Tensor] = {}

    def begin(self) -> None:
        """Make the tensors, or continue from the checkpoint; a run that resumes after a pause keeps what it has."""
        if self.values:
            return
        if self._restored():
            return
        blocks = self.layout.blocks(stack_of([self.start], self.backbone, dtype=torch.float32).parameters)
        state = OPTIMIZERS[self.recipe.optimizer].fresh(blocks)
        self.values = {str(index): block[0] for index, block in enumerate(blocks)}
        self.state = {key: value[0] for key, value in state.items()}

    @property
    def finished(self) -> bool:
        """Whether the last step is made or patience has run out, and the last state has been evaluated."""
        return not self.due and (self.step >= self.recipe.max_steps or self.stale >= self.recipe.patience)

    @property
    def due(self) -> bool:
        """Whether its current state is to be evaluated."""
        if self.curve and self.curve[-1].step == self.step:
            return False
        return self.step % self.recipe.eval_every == 0 or self.step >= self.recipe.max_steps

    @property
    def best_score(self) -> float:
        """The best dev score so far, NaN if there is none."""
        return self.best.dev_score if self.best else math.nan

    @property
    def early_step(self) -> int | None:
        """After how many updates the state is kept for the embedding `early`; `None` if it is not."""
        epochs, rows = self.recipe.early_epochs, len(self.items)
        return self.recipe.early_steps if epochs is None else -(-epochs * rows // min(self.recipe.batch_size, rows))

    def next_rows(self) -> list[Encoded]:
        """The rows of the next update."""
        return [self.items[index] for index in self.order.at(self.step)]

    def took_step(self, loss: float, *, seconds: float) -> None:
        """Count an update; `loss` is the loss of its rows before it."""
        self.step += 1
        self.losses.append(loss)
        if self.step == self.early_step:
            self.early_values = _cloned(self.values)
        self.seconds += seconds

    def evaluated(self, found: Evaluation, *, seconds: float) -> None:
        """Add a point to the curve; remember the state if it is the best so far."""
        train_loss = sum(self.losses) / len(self.losses) if self.losses else math.nan
        point = CurvePoint(self.step, train_loss, found.loss, found.score)
        self.losses, self._unsaved = [], True
        self.seconds += seconds
        self.curve.append(point)
        logged = {"train_loss": train_loss, "dev_loss": found.loss, "dev_score": found.score}
        self.tracker.log(logged, step=self.step)
        if self.best is None or self._worth(point) > self._worth(self.best):
            self.best, self.stale = point, 0
            self.best_values = _cloned(self.values)
        else:
            self.stale += 1

    def save(self) -> bool:
        """Write the checkpoint, if one is wanted: after an evaluation, and when the last one is a minute old.

        Returns whether it was written.
        """
        evaluated = self._unsaved and self.curve[-1].step == self.step
        if self.lane.checkpoint is None or not (evaluated or time.monotonic() - self._saved > SAVE_EVERY):
            return False
        state = {
            "step": self.step, "stale": self.stale, "seconds": self.seconds, "losses": self.losses,
            # Cloned, because saving a view also saves all the memory that it shares.
            "values": _cloned(self.values), "state": _cloned(self.state), "best_values": self.best_values,
            "early_values": self.early_values,
            "curve": [asdict(point) for point in self.curve], "best": asdict(self.best) if self.best else None,
        }  # fmt: skip
        write_checkpoint(self.lane.checkpoint, state, identity=self._identity())
        self._saved, self._unsaved = time.monotonic(), False
        return True

    def result(self) -> Tuned:
        """The best module with its card, and how tuning went."""
        assert self.best is not None
        self.tracker.close()
        self.values, self.state = {}, {}
        module = self._module(self.best_values)
        lane, task = self.lane, self.lane.task
        card = module.card.model_copy(
            update={
                **task_facts(task.card), "name": lane.name or task.name, "calibration": None,
                "score": None if math.isnan(self.best_score) else self.best_score,
                "train_rows": len(self.items), "license": lane.license or self.start.card.license,
                "dataset_license": dataset_license(task.card, self.start.card), "donors": donors_of(self.start.card),
                "backbone": self.backbone.fingerprint,
                "base_model": self.backbone.name, "tensor_hash": "",
                "text_format": self.backbone.encoder.layout(self.text_format),
                "notes": f"Tuned with recipe '{self.recipe.name}', seed {lane.seed}; "
                f"best at step {self.best.step} of {self.step}.",
            }
        )  # fmt: skip
        unmoved = [] if self.best.step else [self._unmoved()]
        if self.early_step is not None and not self.early_values:
            unmoved.append(NO_EARLY.format(step=self.early_step))
        tuned = replace(module, card=card, history=self._history())
        return Tuned(tuned, tuple(self.curve), self.best, self.seconds, (*self.notes, *unmoved))

    def _unmoved(self) -> str:
        """What is said where the best state is that before the first step."""
        if self.lane.start is not None:
            return UNMOVED
        by_loss = self.recipe.select == "loss"
        by, other = ("loss", "") if by_loss else ("score", BY_LOSS)
        return UNTUNED.format(by=by, steps=2 * self.recipe.max_steps, other=other)

    def _module(self, values: dict[str, Tensor]) -> Module:
        """The module whose parameters are in these blocks."""
        stack = stack_of([self.start], self.backbone, dtype=torch.float32)
        self.layout.bind(stack.parameters, [block.unsqueeze(0) for block in values.values()])
        return stack.module(0)

    def _history(self) -> History:
        losses = tuple((point.step, point.train_loss) for point in self.curve if not math.isnan(point.train_loss))
        if not self.early_values:
            return History(losses)
        return History(losses, self._module(self.early_values).parameters(), self.early_step)

    def _started(self) -> Module:
        """The module to begin with, checked to fit the backbone, and on an encoder the task head to begin with."""
        lane, start = self.lane, self.lane.start
        if start is None:
            name = lane.name or lane.task.name
            start = fresh_module(self.recipe.kind, self.backbone, self.recipe.shape, name=name, seed=lane.seed)
        if start.only_ranked:
            raise ModuleError(
                f"'{start.name}' is {start.only_ranked} that Headstart cannot tune; start from plain LoRA"
            )
        start.check(self.backbone)
        head = _head(lane.task, self.backbone, start, seed=lane.seed)
        if start.head is not None and head is not start.head:
            self.notes.append(OTHER_HEAD)
        return start.with_head(head)

    def _train_items(self) -> list[Encoded]:
        task = self.lane.task
        pairs = [(example.text, example.target) for example in task.train]
        encoded = self.backbone.encode(pairs, self.text_format, head=self.start.card.head)
        if not encoded or not self.dev:
            raise TaskError(f"task '{task.name}' has an empty train or dev split; add rows to it")
        items = [item for item in encoded if not item.cut_off]
        if not items:
            raise TaskError(
                f"no answer of the {len(encoded)} training rows of '{task.name}' lies within the first "
                f"{self.recipe.max_input} tokens of its input; raise max_input, or shorten the inputs"
            )
        if len(items) < len(encoded):
            left_out = len(encoded) - len(items)
            self.notes.append(CUT_OFF.format(count=left_out, rows=len(encoded), most=self.recipe.max_input))
        return items

    def _worth(self, point: CurvePoint) -> tuple[float, float]:
        # Every comparison with NaN is false: a first state with NaN would stay the best forever.
        score, low_loss = (-math.inf if math.isnan(value) else value for value in (point.dev_score, -point.dev_loss))
        return (score, low_loss) if self.recipe.select == "score" else (low_loss, score)

    def _identity(self) -> str:
        """A hash of everything that the result depends on, except how a device rounds."""
        optimizer, metric = OPTIMIZERS[self.recipe.optimizer], METRICS[self.lane.task.card.metric]
        # Tokenizer and chat template among it; a run may continue on another device.
        backbone = replace(BackboneInput.of(self.backbone, self.text_format), device="")
        parts = [
            "lane 2", self.recipe.canonical(fresh=False), self.lane.seed, self.train_key, self.dev_key,
            asdict(backbone), optimizer.version, metric.version, self.start.digest(),
        ]  # fmt: skip
        return hashlib.sha256(json.dumps(parts).encode()).hexdigest()

    def _restored(self) -> bool:
        """Load the checkpoint if there is one, and return whether there was."""
        path = self.lane.checkpoint
        if path is None or not path.exists():
            return False
        try:
            self._restore(path)
        except (OutputError, SettingError):
            if not self.lane.anew:
                raise
            return False
        return True

    def _restore(self, path: Path) -> None:
        state, device = read_checkpoint(path, identity=self._identity()), self.backbone.device
        self.values, self.state, self.best_values = (
            {key: value.to(device) for key, value in state[part].items()} for part in ("values", "state", "best_values")
        )
        early = state.get("early_values", {})  # which older checkpoints lack
        self.early_values = {key: value.to(device) for key, value in early.items()}
        self.step, self.stale, self.losses = state["step"], state["stale"], state["losses"]
        self.curve = [CurvePoint(**point) for point in state["curve"]]
        self.best = CurvePoint(**state["best"])
        self.seconds = state["seconds"]


def _cloned(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {key: value.clone(memory_format=torch.contiguous_format) for key, value in tensors.items()}


def text_format_of(recipe: Recipe) -> TextFormat:
    """The text layout that a recipe uses."""
    return recipe.text_format


def task_facts(card: TaskCard) -> dict[str, Any]:
    """What a module's card says about the task that it was tuned on, so that further rows can be read and answered."""
    return {
        "task": card.name, "family": card.family, "metric": card.metric, "template": card.template,
        "labels": card.labels, "options": card.options,
    }  # fmt: skip


def _head(task: Task, backbone: Backbone, start: Module, *, seed: int) -> Head | None:
    """The task head to begin with on an encoder: the start's own if it was tuned on this task, else a fresh one."""
    if not isinstance(backbone, EncoderBackbone):
        return None
    wanted, own = head_of(task.card), start.head
    if own is not None and start.card.task == task.name and own.card.answers_as(wanted):
        return own
    return backbone.fresh_head(wanted, seed=seed)


def dataset_license(task: TaskCard, start: ModuleCard | None) -> str:
    """The licences of the data that a module was tuned on, and its start before it."""
    return "; ".join(sorted({task.license, "" if start is None else start.dataset_license} - {""}))


def donors_of(card: ModuleCard) -> tuple[Donor, ...]:
    """What a module tuned from this start descends from: a blend's donors or the stored start; if fresh, nothing."""
    if card.donors or not card.tensor_hash:
        return card.donors
    return (Donor(name=card.name, tensor_hash=card.tensor_hash, weight=1.0, license=card.license),)
