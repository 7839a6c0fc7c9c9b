"""The slopes of the loss while a module was tuned."""

from headstart.embeddings.arrays import Array, slopes
from headstart.embeddings.contract import Embedding, Need, Subject
from headstart.errors import ModuleError

__all__ = ["CurveGradient"]


class CurveGradient(Embedding):
    """The slopes of the training loss at 10, 20, 30, 50 and 70 % of the run.

    They are read from the losses that tuning records, each the mean since the evaluation before it.
    """

    name = "curve_gradient"
    source = "Bingel and Søgaard, 2017, §3; Vu et al., 2020; a baseline of Zhou et al., 2022, §4.2"
    needs = frozenset({Need.HISTORY})

    def of(self, subject: Subject) -> Array:
        """(5,). Raises `ModuleError` where no losses, or too few, were recorded."""
        history = subject.module.history
        if history is None or len(history.losses) < 2:
            raise ModuleError(
                f"the losses of '{subject.module.name}' while it was tuned were not recorded, or at fewer than two "
                "steps; tune it again, and evaluate at least twice"
            )
        return slopes(history.losses)
