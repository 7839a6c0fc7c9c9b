"""The parameters early in tuning."""

from headstart.embeddings.arrays import Array
from headstart.embeddings.contract import Embedding, Need, Subject
from headstart.embeddings.tupate import tuned_parameters
from headstart.errors import ModuleError

__all__ = ["Early"]


class Early(Embedding):
    """`tupate` of the state that tuning kept early, by Zhou et al. after 2 of 20 epochs.

    A recipe with `early_epochs` or `early_steps` keeps one.
    """

    name = "early"
    source = "Zhou et al., 2022, §4.3 and §4.5"
    needs = frozenset({Need.HISTORY})

    def of(self, subject: Subject) -> Array:
        """Raises `ModuleError` for a module without an early state."""
        module, history = subject.module, subject.module.history
        if history is None or history.early is None:
            raise ModuleError(
                f"'{module.name}' has no early state; tune it with early_epochs=2 (--set early_epochs=2) to keep one"
            )
        return tuned_parameters(module.with_parameters(history.early))
