"""How a module was tuned, as far as it was kept beside the module: its losses, and an early state."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from safetensors.torch import save
from torch import Tensor

from headstart.errors import CardError, ModuleError
from headstart.filenames import EARLY_FILE, HISTORY_FILE
from headstart.formats import read_safetensors
from headstart.kinds.tensors import to_torch
from headstart.records import HistoryCard

__all__ = ["History", "read_history", "write_history"]


@dataclass(frozen=True, eq=False)
class History:
    """What tuning left beside a module. It does not change what the module computes, nor its digest.

    Args:
        losses: (step, mean training loss since the point before), in order.
        early: `Module.parameters` after `early_step` updates; `None` if they were not kept.
        early_step: that number.
    """

    losses: tuple[tuple[int, float], ...] = ()
    early: Mapping[str, Tensor] | None = None
    early_step: int | None = None


def write_history(history: History, folder: Path) -> None:
    """Write it into a module's folder."""
    losses = tuple((step, loss) for step, loss in history.losses if math.isfinite(loss))
    HistoryCard(losses=losses, early_step=history.early_step).write(folder / HISTORY_FILE)
    if history.early is not None:
        tensors = {name: value.contiguous().clone() for name, value in history.early.items()}
        (folder / EARLY_FILE).write_bytes(save(tensors, metadata={"format": "pt"}))


def read_history(folder: Path, parameters: Mapping[str, Tensor]) -> History | None:
    """What a module's folder holds of it; `None` if there is none. `parameters` are the module's.

    Raises `ModuleError` if the file is broken, or the early state is not one of this module.
    """
    path = folder / HISTORY_FILE
    if not path.exists():
        return None
    try:
        card = HistoryCard.read(path)
    except CardError as error:
        raise ModuleError(f"{error}; or remove {HISTORY_FILE}, which the module does without") from error
    if card.early_step is None or not (folder / EARLY_FILE).exists():
        return History(card.losses)
    early = {name: to_torch(tensor).float() for name, tensor in read_safetensors(folder / EARLY_FILE).items()}
    if {name: value.shape for name, value in early.items()} != {name: v.shape for name, v in parameters.items()}:
        raise ModuleError(
            f"{folder / EARLY_FILE} is not an early state of the module beside it; remove it, the module does without"
        )
    return History(card.losses, early, card.early_step)
