"""Several tunings at once on one frozen backbone: which lanes share a pass, which come next, and how each one ends."""

from __future__ import annotations

import contextlib
import math
from collections import deque
from collections.abc import Hashable, Iterable, Iterator, Sequence

from headstart.backbones import Backbone
from headstart.backbones.memory import RAN_OUT
from headstart.errors import HeadstartError, LanesError
from headstart.events import Listener, Note, Progress, Saved
from headstart.tuning.lane import Lane, Tuned
from headstart.tuning.pack import Pack, equal_dev_rows, evaluate_runs
from headstart.tuning.run import Run
from headstart.tuning.width import Width

__all__ = ["tune_lanes"]


def tune_lanes(
    lanes: Iterable[Lane], backbone: Backbone, *, most: int | None = None, progress: Listener | None = None
) -> Iterator[tuple[int, Tuned]]:
    """Tune several modules at once; every result is that of tuning the lane alone, whatever its neighbours are.

    Lanes of one kind, shape, head and optimizer share the backbone's passes; others take their turn after them. Each
    has its own rows, loss, gradient clipping, learning rate, early stop, evaluations and optimizer state. A lane that
    stops makes room for the next. Results differ from those of `tune` only by the rounding of wider products and,
    with `Recipe.dropout`, by other random draws. A lane that fails does not stop the others.

    Args:
        lanes: what to tune.
        backbone: stays frozen.
        most: how many lanes may share a pass; `None` takes as many as keep the device busy.
        progress: gets a `Progress` after every step, counted over all lanes, a `Saved` with every checkpoint, and a
            `Note` when a lane fails.

    Yields:
        The lane's position and its `Tuned`, as soon as that lane is done.

    Raises:
        LanesError: some of several lanes failed, after the others are done; it names each with its reason.
        HeadstartError: the only lane's own error.
    """
    report = _Report(tuple(lanes), progress)
    groups: dict[Hashable, dict[int, Run]] = {}
    for index, lane in enumerate(report.lanes):
        with report.failing(index):
            run = Run(lane, backbone)
            groups.setdefault(_shared(run), {})[index] = run
    for members in groups.values():
        tokens = max(run.batch_tokens for run in members.values())
        width = Width(1 if backbone.goes_alone else most, budget=backbone.token_budget, lane_tokens=tokens)
        yield from _tune_together(members, backbone, width, report)
    report.raise_failures()


def _shared(run: Run) -> Hashable:
    """A key for a run: runs with equal keys can share a pass."""
    head = run.start.card.head
    answers = None if head is None else (head.task, head.labels, tuple(sorted(head.shapes.items())))
    return (type(run.start), run.start.stack_key, answers, run.recipe.optimizer, run.recipe.dropout)


def _tune_together(
    members: dict[int, Run], backbone: Backbone, width: Width, report: _Report
) -> Iterator[tuple[int, Tuned]]:
    """The loop: waiting lanes enter, every lane makes a step, lanes that are due are evaluated, finished ones leave."""
    waiting = deque(members)
    here: dict[int, Run] = {}
    pack: Pack | None = None
    while waiting or here:
        while waiting and len(here) < width.now:
            index = waiting.popleft()
            with report.failing(index):
                try:
                    members[index].begin()
                except RAN_OUT as error:
                    width.ran_out_of_memory(error)
                    waiting.appendleft(index)
                else:
                    here[index] = members[index]
        _evaluate_due(here, backbone, report)
        working = [run for run in here.values() if not run.finished]
        if working:
            pack = _packed(working, width, backbone, before=pack)
            _take_turn(pack, width)
            _evaluate_due(here, backbone, report)
            report.after_turn(here)
        for index in [index for index, run in here.items() if run.finished]:
            yield index, here.pop(index).result()
        for index in list(here)[width.now :]:  # the width was halved: these continue later
            here.pop(index)
            waiting.appendleft(index)


def _packed(runs: Sequence[Run], width: Width, backbone: Backbone, *, before: Pack | None) -> Pack:
    """The first of the runs as a pack, as many as share a pass; `before` if nothing has changed."""
    while True:
        members = tuple(runs[: width.now])
        if before is not None and before.runs == members:
            return before
        try:
            return Pack(members, backbone)
        except RAN_OUT as error:
            width.ran_out_of_memory(error)


def _take_turn(pack: Pack, width: Width) -> None:
    """One update of every lane of the pack; if memory runs out, none moves, and a smaller pack follows."""
    try:
        pack.find_gradients()
    except RAN_OUT as error:
        width.ran_out_of_memory(error)
        return
    pack.step()
    width.measured(pack.memory_use, lanes=len(pack.runs), share=pack.share)


def _evaluate_due(here: dict[int, Run], backbone: Backbone, report: _Report) -> None:
    """Evaluate the runs that are due, write the checkpoints that are due, and take out the runs that failed."""
    index_of = {run: index for index, run in here.items()}
    for group in equal_dev_rows([run for run in here.values() if run.due]):
        with report.failing(*(index_of[run] for run in group)):
            evaluate_runs(group, backbone)
    for index, run in here.items():
        with report.failing(index):
            if run.save():
                report.saved(index, run.step)
    for index in report.failures.keys() & here.keys():
        del here[index]


class _Report:
    """Tells the listener how far the lanes are, and remembers which failed."""

    def __init__(self, lanes: tuple[Lane, ...], progress: Listener | None) -> None:
        self.lanes, self._progress = lanes, progress
        self.failures: dict[int, HeadstartError] = {}
        self._steps = [0] * len(lanes)

    @contextlib.contextmanager
    def failing(self, *indices: int) -> Iterator[None]:
        """Record an error of these lanes, so that the others can go on; the error of a single lane is raised."""
        try:
            yield
        except HeadstartError as error:
            if len(self.lanes) == 1:
                raise
            for index in indices:
                self.failures[index] = error
                if self._progress:
                    self._progress(Note(f"{self.lanes[index].title} failed, the others go on: {error}"))

    def after_turn(self, here: dict[int, Run]) -> None:
        """Report how far all lanes are; a lane that stopped early counts with all of its steps."""
        for index, run in here.items():
            self._steps[index] = run.recipe.max_steps if run.finished and len(self.lanes) > 1 else run.step
        if self._progress is None:
            return
        total = sum(lane.recipe.max_steps for lane in self.lanes)
        note = ""  # losses of modules that are tuned by turns have no mean that would fall
        if len(self.lanes) == 1:
            (run,) = here.values()
            loss = run.losses[-1] if run.losses else run.curve[-1].train_loss
            note = f"training loss {_number(loss)}, best dev {_number(run.best.dev_score if run.best else math.nan)}"
            what = f"tuning {self.lanes[0].title}"
        else:
            what = f"tuning {len(self.lanes)} modules"
        self._progress(Progress(what, sum(self._steps), total, note))

    def saved(self, index: int, step: int) -> None:
        """Report that a lane could continue from here."""
        if self._progress:
            self._progress(Saved(self.lanes[index].title, step))

    def raise_failures(self) -> None:
        """Raise `LanesError` when lanes failed."""
        if self.failures:
            said = "; ".join(f"{self.lanes[index].title}: {error}" for index, error in sorted(self.failures.items()))
            raise LanesError(f"{len(self.failures)} of {len(self.lanes)} tunings failed: {said}", self.failures)


def _number(value: float) -> str:
    return "undefined" if math.isnan(value) else f"{value:.3f}"
