"""A module's calibration as units of work: its answers to rows of dev, and of train, by which one is chosen."""

from dataclasses import dataclass, replace

from headstart.backbones import Backbone
from headstart.errors import SettingError, TaskError
from headstart.evaluating.answering import decoding_for
from headstart.evaluating.calibration import Calibration, calibrate, check_calibration, fit_calibration
from headstart.evaluating.unit import EvaluateUnit
from headstart.tasks import Task
from headstart.units import Content, Results

__all__ = ["MOST_INPUTS", "CalibrationChoice", "possible_calibration"]

SPLITS = ("dev", "train")
"""The splits that a calibration is chosen from; the score on the first that there is decides."""

MOST_INPUTS = 256
"""At most this many rows of dev and of train, each, are read to choose a calibration."""


@dataclass(frozen=True, eq=False)
class CalibrationChoice:
    """How one module's calibration is chosen: `method` as for `fit_calibration`, from the results of `units`.

    `chosen_on`: the split whose score decides, "dev" or "train"; "" where nothing is run.
    """

    method: str
    units: tuple[EvaluateUnit, ...] = ()
    chosen_on: str = ""

    @classmethod
    def plan(cls, unit: EvaluateUnit, task: Task, backbone: Backbone, *, method: str) -> "CalibrationChoice":
        """The choice for the module that `unit` evaluates, as it evaluates it, from the dev and train rows of `task`.

        Nothing needs to be run for "none" and "length", nor for "auto" where answers are not chosen among options.
        Without dev rows, the score on train rows decides; see `chosen_on`. Raises `SettingError` for a method that is
        unknown or not possible for these rows, and `TaskError` for a task with neither.
        """
        how = possible_calibration(method, task, backbone, decoding=unit.decoding)
        if how in ("none", "length"):
            return cls(how)
        units = []
        for split in SPLITS:
            if task.splits.get(split):
                some = task.take(split, MOST_INPUTS)
                content = Content(some.rows(split), some.fingerprint(split))
                units.append(replace(unit, rows=content, name=f"{unit.name}, calibration on {split}"))
        return cls(how, tuple(units), next(split for split in SPLITS if task.splits.get(split)))

    def made(self, found: Results) -> Calibration:
        """The calibration, from the results of `units`."""
        if not self.units:
            return Calibration(method="length") if self.method == "length" else Calibration()
        first, *others = (unit.evaluation(found.of(unit)) for unit in self.units)
        return fit_calibration(first, *others, method=self.method)

    def dev_score(self, found: Results) -> float | None:
        """The score on the rows of dev that were read, with the calibration; `None` where there is none to tell of."""
        made = self.made(found)
        if not self.units or self.chosen_on != "dev" or made.method == "none":
            return None
        return calibrate(self.units[0].evaluation(found.of(self.units[0])), made).score


def possible_calibration(method: str, task: Task, backbone: Backbone, *, decoding: str = "auto") -> str:
    """The method as it can be used on a task's rows: "none" for "auto" where answers are not chosen among options.

    Raises `SettingError` for a method that is unknown, or asked for by name and not possible.
    """
    check_calibration(method)
    if method == "none":
        return "none"
    read = [rows for split in SPLITS if (rows := task.splits.get(split))]
    # Any rows say how they are answered, and "length" chooses nothing by them.
    rows = next(iter([*read, *filter(None, task.splits.values())]), None)
    how = "" if rows is None else decoding_for(decoding, rows, backbone)
    if how == "options" and (read or method == "length"):
        return method
    if how == "options":
        raise TaskError(
            f"calibration '{method}' is chosen on dev rows, else on train rows, and task '{task.name}' has neither; "
            "add some, or choose none or length"
        )
    if method == "auto" or not how:
        return "none"
    raise SettingError(
        f"calibration '{method}' compares the likelihoods of options, and the rows of '{task.name}' are answered "
        f"{'through a task head' if how == 'head' else 'in open text'}; leave it at auto"
    )
