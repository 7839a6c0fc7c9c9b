"""What every engine is: hands that are given batches of units and tell what became of each."""

import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from headstart.errors import StoreError
from headstart.events import Listener
from headstart.units.store import Store
from headstart.units.unit import Result, Unit

__all__ = ["BatchEnd", "Engine", "Loaders", "Outcome", "Room", "work_off"]

Loaders = Mapping[str, Callable[[], Any]]
"""What units may ask for by name, each loaded on first use and kept: the frozen backbone of a run, for example."""


@dataclass(frozen=True)
class Outcome:
    """One unit is finished: its result is in the store, or it ended in `error`."""

    key: str
    seconds: float
    error: Exception | None = None


@dataclass(frozen=True)
class BatchEnd:
    """A batch has ended. `error`: why the units without an outcome have none; `died`: it took its worker along."""

    keys: tuple[str, ...]
    error: Exception | None = None
    died: bool = False


@dataclass
class Room:
    """Where one worker computes: the store, what it has loaded, and who listens. It is the units' `Context`."""

    store: Store
    loaders: Loaders = field(default_factory=dict)
    listener: Listener | None = None
    loaded: dict[str, Any] = field(default_factory=dict)

    def result(self, unit: Unit) -> Result:
        """The stored result of an upstream unit."""
        found = self.store.get(unit)
        if found is None:
            raise StoreError(f"the result of {unit.label} was removed while it was needed; run the command again")
        return found

    def resource(self, name: str) -> Any:
        """What the loader of that name gives, loaded once."""
        if name not in self.loaded:
            self.loaded[name] = self.loaders[name]()
        return self.loaded[name]

    def work(self, unit: Unit) -> Path:
        """The working folder of a unit."""
        return self.store.work(unit)


def work_off(batch: Sequence[Unit], room: Room) -> Iterator[Outcome | BatchEnd]:
    """Compute a batch and store each result as it comes: an outcome for each, and the end of the batch."""
    error = None
    try:
        began = time.monotonic()
        for unit, found in type(batch[0]).compute_many(batch, room):
            seconds = time.monotonic() - began
            if isinstance(found, Result):
                room.store.put(unit, found, seconds=seconds)
                yield Outcome(unit.key, seconds if found.seconds is None else found.seconds)
            else:
                yield Outcome(unit.key, seconds, found)
            began = time.monotonic()
    except Exception as raised:
        error = raised
    yield BatchEnd(tuple(unit.key for unit in batch), error)


class Engine(ABC):
    """Computes batches. Where, is its own affair; results go through the store alone.

    Args:
        store: where results are put.
        loaders: what units may ask for.
        listener: called, in the caller's process, with the events of the work.
        argument: what the user wrote after the engine's name: "4" of "processes=4"; `None`: nothing.

    Constructors only check and store; work begins with the first batch.
    """

    def __init__(self, store: Store, *, loaders: Loaders, listener: Listener | None, argument: str | None) -> None:
        self.store, self.loaders, self.listener, self.argument = store, loaders, listener, argument

    @property
    @abstractmethod
    def free(self) -> int:
        """How many batches it would take now."""

    @property
    @abstractmethod
    def busy(self) -> bool:
        """Whether it has a batch in hand."""

    @abstractmethod
    def submit(self, batch: Sequence[Unit]) -> None:
        """Take a batch of units of one type, whose needs are all in the store."""

    @abstractmethod
    def collect(self) -> list[Outcome | BatchEnd]:
        """What has become of the batches in hand; waits until there is something, or for a second."""

    @abstractmethod
    def close(self) -> None:
        """End at once whatever still runs."""
