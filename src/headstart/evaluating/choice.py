"""A module's calibration as units of work: its answers to rows of dev, and of train, by which one is chosen."""

from dataclasses import dataclass, replace

from headstart.backbones import Backbone
from headstart.errors import SettingError
from headstart.evaluating.answering import decoding_for
from headstart.evaluating.calibration import Calibration, check_calibration, fit_calibration
from headstart.evaluating.unit import EvaluateUnit
from headstart.tasks import Task
from headstart.units import Content, Results

__all__ = ["MOST_INPUTS", "CalibrationChoice", "possible_calibration"]

MOST_INPUTS = 256
"""At most this many rows of dev and of train, each, are read to choose a calibration."""


@dataclass(frozen=True, eq=False)
class CalibrationChoice:
    """How one module's calibration is chosen: `method` as for `fit_calibration`, from the results of `units`."""

    method: str
    units: tuple[EvaluateUnit, ...] = ()

    @classmethod
    def plan(cls, unit: EvaluateUnit, task: Task, backbone: Backbone, *, method: str) -> "CalibrationChoice":
        """The choice for the module that `unit` evaluates, as it evaluates it, from the dev and train rows of `task`.

        Nothing needs to be run for "none" and "length", nor for "auto" where answers are not chosen among options.
        Raises `SettingError` for a method that is unknown or not possible for these rows.
        """
        how = possible_calibration(method, task, backbone, decoding=unit.decoding)
        if how in ("none", "length"):
            return cls(how)
        units = []
        for split in ("dev", "train"):
            if task.splits.get(split):
                some = task.take(split, MOST_INPUTS)
                content = Content(some.rows(split), some.fingerprint(split))
                units.append(replace(unit, rows=content, name=f"{unit.name}, calibration on {split}"))
        return cls(how, tuple(units))

    def made(self, found: Results) -> Calibration:
        """The calibration, from the results of `units`."""
        if not self.units:
            return Calibration(method="length") if self.method == "length" else Calibration()
        dev, *others = (unit.evaluation(found.of(unit)) for unit in self.units)
        return fit_calibration(dev, *others, method=self.method)


def possible_calibration(method: str, task: Task, backbone: Backbone, *, decoding: str = "auto") -> str:
    """The method as it can be used on a task's rows: "none" for "auto" where answers are not chosen among options.

    Raises `SettingError` for a method that is unknown, or asked for by name and not possible.
    """
    check_calibration(method)
    if method == "none":
        return "none"
    # "length" chooses nothing by dev rows, so that any rows say how they are answered.
    rows = next(filter(None, task.splits.values())) if method == "length" else task.dev
    if not rows:
        return "none"
    how = decoding_for(decoding, rows, backbone)
    if how == "options":
        return method
    if method == "auto":
        return "none"
    raise SettingError(
        f"calibration '{method}' compares the likelihoods of options, and the rows of '{task.name}' are answered "
        f"{'through a task head' if how == 'head' else 'in open text'}; leave it at auto"
    )
