"""How much some steps of tuning on the new task improve a module's score."""

from dataclasses import dataclass

from headstart.indicators.contract import Trial, TuningIndicator

__all__ = ["Performance"]


@dataclass(frozen=True)
class Performance(TuningIndicator):
    """(the best dev score within `m` steps on the task) − (the dev score before), in the units of the task's metric."""

    name = "performance"
    source = "Lv et al., 2023, appendix C"

    def from_trial(self, trial: Trial) -> float:
        """The gain, at least 0 unless states are chosen by their loss."""
        return trial.best - trial.before
