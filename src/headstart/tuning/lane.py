"""One tuning and its result: the records that the loop reads and returns."""

from dataclasses import dataclass, field, replace
from pathlib import Path

import pandas as pd

from headstart.kinds import Module
from headstart.kinds.saving import based_on
from headstart.records import Calibration
from headstart.showing import html_table, line
from headstart.tasks import Task
from headstart.tuning.recipes import Recipe

__all__ = ["LAST_BEST", "CurvePoint", "Lane", "Tuned"]


@dataclass(frozen=True)
class Lane:
    """One tuning among several that share the backbone's passes.

    Args:
        task: with train and dev splits.
        start: where to begin; `None` is a fresh module of the recipe's kind and shape. On an encoder, its task head is
            kept if it was tuned on this very task; otherwise a fresh head is tuned with it.
        recipe: how it is tuned.
        seed: of the fresh module, the order of the rows, and dropout.
        name: of the tuned module; `None` is the task's name.
        license: of the tuned module, for its card.
        checkpoint: file that a killed run continues from; it is written at every evaluation and once a minute. It is
            the caller's to remove once the module is saved.
        anew: whether to begin anew if the checkpoint cannot be read or is another run's; otherwise that is an error.
        label: what messages call this lane; `None` is "<name>, seed <seed>".
        tracker: an accelerate tracker ("tensorboard", "wandb") that gets losses and scores.
    """

    task: Task
    start: Module | None = None
    recipe: Recipe = field(kw_only=True)
    seed: int = field(default=0, kw_only=True)
    name: str | None = field(default=None, kw_only=True)
    license: str = field(default="", kw_only=True)
    checkpoint: Path | None = field(default=None, kw_only=True)
    anew: bool = field(default=False, kw_only=True)
    label: str | None = field(default=None, kw_only=True)
    tracker: str | None = field(default=None, kw_only=True)

    @property
    def title(self) -> str:
        """The name that messages use for this lane."""
        return self.label or f"{self.name or self.task.name}, seed {self.seed}"


@dataclass(frozen=True)
class CurvePoint:
    """One evaluation, after `step` updates; `train_loss` is the mean since the last evaluation (NaN at step 0)."""

    step: int
    train_loss: float
    dev_loss: float
    dev_score: float


LAST_BEST = "The best state is the last one that was tested"
"""How the advice begins to tune for longer."""


@dataclass(frozen=True)
class Tuned:
    """A tuned module, the best of the run by dev score (ties: lower dev loss), and how it went.

    `seconds`: its share of the passes that it took part in and of its evaluations, summed over all processes of a
    continued run. `notes`: what the caller may not expect, each as a sentence.
    """

    module: Module
    curve: tuple[CurvePoint, ...]
    best: CurvePoint
    seconds: float
    notes: tuple[str, ...] = ()

    def made_for(self, calibration: Calibration, place: str, *, score: float | None = None) -> "Tuned":
        """The same, with how likelihoods of options are compared, and where the backbone is (`Backbone.place`).

        `score`: that on dev rows with the calibration, for the card, if it is known.
        """
        known = {} if score is None else {"score": score}
        card = self.module.card.model_copy(update={"calibration": calibration, **known})
        return replace(self, module=based_on(replace(self.module, card=card), place))

    @property
    def advice(self) -> str:
        """What to try where the best state is the last one that was tested; "" where it is not."""
        if len(self.curve) < 2 or self.best.step < self.curve[-1].step:
            return ""
        return (
            f"{LAST_BEST} (step {self.best.step}), so that tuning for longer may do better, from whatever start: "
            f"--set max_steps={2 * self.best.step}, or recipe.change(max_steps={2 * self.best.step}) in Python."
        )

    def __repr__(self) -> str:
        return line(type(self).__name__, *self._words)

    def _repr_html_(self) -> str:
        return html_table(pd.DataFrame(self.curve), title="; ".join(self._words))

    @property
    def _words(self) -> tuple[str, str, str]:
        best = f"dev score {self.best.dev_score:.4g} (loss {self.best.dev_loss:.4g}) at step {self.best.step}"
        return self.module.card.words, best, f"{self.seconds:.0f} s"
