"""Lanes that share a forward pass: their modules as one stack, their parameters and optimizer state side by side."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence

import torch
from torch import Tensor

from headstart.backbones import Backbone, Encoded, target_loss
from headstart.backbones.memory import in_halves, watched
from headstart.evaluating.evaluate_many import evaluate_attached
from headstart.kinds import Stack, stack_of
from headstart.tuning.layout import side_by_side
from headstart.tuning.optimizers import OPTIMIZERS, Pace
from headstart.tuning.run import Run
from headstart.tuning.width import TOO_LARGE

__all__ = ["Pack", "equal_dev_rows", "evaluate_runs", "lane_losses"]


class Pack:
    """N ≥ 1 runs of equal shape, head and optimizer, which are updated together.

    Each run's tensors become views of the pack's own, so an update changes all of them in place; when the runs are
    packed differently later, they keep their values. Nothing of one lane enters the numbers of another: rows, loss,
    gradient norm, learning rate and second moments are each lane's own.
    """

    def __init__(self, runs: Sequence[Run], backbone: Backbone) -> None:
        self.runs, self._backbone = tuple(runs), backbone
        self._stack = _stack(runs, backbone)
        self._values, self._state = _together([run.values for run in runs]), _together([run.state for run in runs])
        for index, run in enumerate(runs):
            run.values, run.state = ({k: v[index] for k, v in held.items()} for held in (self._values, self._state))
        self._gradients = [torch.zeros_like(block) for block in self._values.values()]
        runs[0].layout.bind(self._stack.parameters, list(self._values.values()), self._gradients)
        self._optimizer = OPTIMIZERS[runs[0].recipe.optimizer]
        self._clip = _each([run.recipe.clip or float("inf") for run in runs])
        self._measured = False

    def find_gradients(self) -> None:
        """Compute the loss of every lane on the next batch of its own rows, and its gradients; no parameter changes.

        `memory_use` is then the memory that this needed, measured the first time only, and `share` the tokens of the
        rows, as a share of those of the longest rows.
        """
        self._began = time.monotonic()
        for block in self._gradients:
            block.zero_()
        rows = [run.next_rows() for run in self.runs]
        most, longest = (max(sizes) for sizes in zip(*(run.largest for run in self.runs), strict=True))
        self.share = batch_tokens(rows) / (most * longest)
        measured = watched(self._backbone.device, wanted=not self._measured)
        with measured as self.memory_use, self._stack.attach(self._backbone), self._dropout():
            losses = lane_losses(self._backbone, rows)
            torch.autograd.backward(losses.sum())
        self._losses, self._measured = losses.detach(), True

    def step(self) -> None:
        """Make one optimizer step for every lane, with the gradients just computed."""
        self._scale_gradients()
        pace = Pace(
            lr=_each([run.learning_rate(run.step) for run in self.runs]),
            weight_decay=_each([run.recipe.weight_decay for run in self.runs]),
            step=_each([run.step + 1 for run in self.runs]),
        )
        with torch.no_grad():
            self._optimizer.update(list(self._values.values()), self._gradients, self._state, pace=pace)
        found = self._losses.tolist()
        seconds = (time.monotonic() - self._began) / len(self.runs)
        for run, loss in zip(self.runs, found, strict=True):
            run.took_step(loss, seconds=seconds)

    def _scale_gradients(self) -> None:
        """Hold each lane's gradient norm below its own limit, as `clip_grad_norm_` does for one module."""
        norms = torch.stack([block.flatten(1).norm(dim=1) for block in self._gradients]).norm(dim=0)
        factors = (self._clip / (norms + 1e-6).cpu()).clamp(max=1.0).float().to(norms.device)
        for block in self._gradients:
            block.mul_(factors.view(-1, *[1] * (block.dim() - 1)))

    @contextlib.contextmanager
    def _dropout(self) -> Iterator[None]:
        """The backbone's own dropout if the recipe asks for it, drawn from seeds and steps only."""
        if not self.runs[0].recipe.dropout:
            yield
            return
        device, model = self._backbone.device, self._backbone.model
        drawn = hash(tuple((run.lane.seed, run.step) for run in self.runs)) % 2**63
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
            torch.manual_seed(drawn)
            model.train()
            try:
                yield
            finally:
                model.eval()


def batch_tokens(rows: Sequence[Sequence[Encoded]]) -> int:
    """The tokens that each of several lanes has in a pass, padding included."""
    return max(len(own) for own in rows) * max(len(item.prompt) + len(item.target) for own in rows for item in own)


def lane_losses(backbone: Backbone, rows: Sequence[Sequence[Encoded]]) -> Tensor:
    """The mean loss per target token of each attached module on its own rows, (N,)."""
    most = max(len(own) for own in rows)
    # Every module of a stack needs the same number of rows: smaller batches are padded with rows that do not count.
    filled = [item for own in rows for item in (*own, *[own[0]] * (most - len(own)))]
    batch = backbone.batch(filled, range(len(filled)))
    losses = target_loss(backbone.target_logits(batch), batch.gold.to(backbone.device)).squeeze(0)
    lane, place = batch.owner // most, batch.owner % most
    counts = (place < torch.tensor([len(own) for own in rows])[lane]).float()
    shares = counts / torch.zeros(len(rows)).index_add_(0, lane, counts)[lane]
    return losses.new_zeros(len(rows)).index_add(0, lane.to(losses.device), losses * shares.to(losses.device))


def equal_dev_rows(runs: Iterable[Run]) -> list[list[Run]]:
    """Groups of runs that are evaluated on the same rows in the same way."""
    groups: dict[object, list[Run]] = {}
    for run in runs:
        groups.setdefault((run.dev_key, run.text_format), []).append(run)
    return list(groups.values())


def evaluate_runs(runs: Sequence[Run], backbone: Backbone) -> None:
    """Score the current states of runs with equal dev rows, which are read once for all of them.

    Lanes with different dev rows are evaluated one after the other. That costs little, because an evaluation fills
    its passes with as many examples as the device takes at once. Where memory runs out, the runs take turns.
    """

    def evaluate_some(most: int) -> None:
        left = [run for run in runs if run.due]
        for start in range(0, len(left), most):
            _evaluate_together(left[start : start + most], backbone)

    in_halves(evaluate_some, len(runs), too_large=TOO_LARGE)


def _evaluate_together(runs: Sequence[Run], backbone: Backbone) -> None:
    began, first = time.monotonic(), runs[0]
    stack = _stack(runs, backbone)
    first.layout.bind(stack.parameters, list(_together([run.values for run in runs]).values()))
    with stack.attach(backbone):
        found = evaluate_attached(
            backbone,
            first.dev,
            metric=first.lane.task.card.metric,
            text_format=first.text_format,
            modules=len(runs),
            head=first.start.card.head,
        )
    seconds = (time.monotonic() - began) / len(runs)
    for run, one in zip(runs, found, strict=True):
        run.evaluated(one, seconds=seconds)


def _together(held: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    return {key: side_by_side([tensors[key] for tensors in held]) for key in held[0]}


def _each(values: Sequence[float]) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)  # on the CPU: some devices, such as Apple's GPUs, have no float64


def _stack(runs: Sequence[Run], backbone: Backbone) -> Stack:
    return stack_of([run.start for run in runs], backbone, dtype=torch.float32)
