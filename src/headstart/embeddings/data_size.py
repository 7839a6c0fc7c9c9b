"""How many rows a module was tuned on."""

import numpy as np

from headstart.embeddings.arrays import Array
from headstart.embeddings.contract import Embedding, Need, Subject
from headstart.errors import ModuleError

__all__ = ["DataSize"]


class DataSize(Embedding):
    """The number of training rows on the module's card: the tasks with more rows come first, whatever the query."""

    name = "data_size"
    source = "Vu et al., 2020, §4; a baseline of Zhou et al., 2022, §4.2"
    needs = frozenset({Need.CARD})
    ranks_alone = True

    def of(self, subject: Subject) -> Array:
        """(1,). Raises `ModuleError` for a card that does not say it."""
        rows = subject.module.card.train_rows
        if rows is None:
            raise ModuleError(
                f"the card of '{subject.module.name}' does not say how many rows it was tuned on; add train_rows to it"
            )
        return np.array([float(rows)])
