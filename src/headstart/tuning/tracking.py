"""Losses and scores of a tuning for accelerate's trackers, such as TensorBoard."""

import warnings
from collections.abc import Mapping

from accelerate import Accelerator

from headstart.errors import SettingError
from headstart.tuning.recipes import Recipe

__all__ = ["Tracker"]


class Tracker:
    """A tracker by accelerate's name for it; `None` tracks nothing.

    Raises `SettingError` for a tracker that is unknown or not installed.
    """

    def __init__(self, name: str | None, recipe: Recipe, *, on_cpu: bool) -> None:
        self._accelerator = _accelerator(name, on_cpu=on_cpu) if name else None
        if self._accelerator:
            self._accelerator.init_trackers("headstart", config=recipe.model_dump(exclude={"shape"}))

    def log(self, values: Mapping[str, float], *, step: int) -> None:
        """Record the values of one step, by name."""
        if self._accelerator:
            self._accelerator.log(dict(values), step=step)

    def close(self) -> None:
        """Write everything still held in memory."""
        if self._accelerator:
            self._accelerator.end_training()


def _accelerator(name: str, *, on_cpu: bool) -> Accelerator:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # about a tracker that is not installed: reported below
            accelerator = Accelerator(cpu=on_cpu, log_with=name, project_dir=".")
    except ValueError as error:
        raise SettingError(f"unknown tracker '{name}' ({error}); choose another or leave it out") from error
    if not accelerator.log_with:
        raise SettingError(f"the tracker '{name}' is not installed; install its package or leave it out")
    return accelerator
