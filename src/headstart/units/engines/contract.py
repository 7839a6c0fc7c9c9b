"""What every engine does: it takes batches of units and reports what became of each."""

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

__all__ = ["BatchEnd", "Engine", "Loaders", "Outcome", "WorkerContext", "work_off"]

Loaders = Mapping[str, Callable[[], Any]]
"""Resources that units may ask for by name, such as a run's backbone; each is loaded on first use and kept."""


@dataclass(frozen=True)
class Outcome:
    """One unit is finished: its result is in the store, or it failed with `error`."""

    key: str
    seconds: float
    error: Exception | None = None


@dataclass(frozen=True)
class BatchEnd:
    """A batch has ended. `error`: why some of its units have no outcome; `died`: its worker died with it."""

    keys: tuple[str, ...]
    error: Exception | None = None
    died: bool = False


@dataclass
class WorkerContext:
    """What one worker computes with: the store, loaded resources, and a listener. It is the units' `Context`."""

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
        """What the loader of that name returns; it is called once."""
        if name not in self.loaded:
            self.loaded[name] = self.loaders[name]()
        return self.loaded[name]

    def work(self, unit: Unit) -> Path:
        """The working folder of a unit."""
        return self.store.work(unit)


def work_off(batch: Sequence[Unit], context: WorkerContext) -> Iterator[Outcome | BatchEnd]:
    """Compute a batch and store each result as it comes; yields an outcome for each unit, then the batch's end."""
    error = None
    try:
        began = time.monotonic()
        for unit, found in type(batch[0]).compute_many(batch, context):
            seconds = time.monotonic() - began
            if isinstance(found, Result):
                context.store.put(unit, found, seconds=seconds)
                yield Outcome(unit.key, seconds if found.seconds is None else found.seconds)
            else:
                yield Outcome(unit.key, seconds, found)
            began = time.monotonic()
    except Exception as raised:
        error = raised
    yield BatchEnd(tuple(unit.key for unit in batch), error)


class Engine(ABC):
    """Computes batches, wherever it chooses to; results go through the store only.

    Args:
        store: where results are put.
        loaders: what units may ask for, by name.
        listener: called, in the caller's process, with the events of the work.
        argument: what the user wrote after the engine's name: "4" in "processes=4"; `None` if nothing.

    Constructors only check and store; work begins with the first batch.
    """

    def __init__(self, store: Store, *, loaders: Loaders, listener: Listener | None, argument: str | None) -> None:
        self.store, self.loaders, self.listener, self.argument = store, loaders, listener, argument

    @property
    @abstractmethod
    def free(self) -> int:
        """How many more batches it would take now."""

    @property
    @abstractmethod
    def busy(self) -> bool:
        """Whether it has unfinished batches."""

    @abstractmethod
    def submit(self, batch: Sequence[Unit]) -> None:
        """Take a batch of units of one type, whose needs are all in the store."""

    @abstractmethod
    def collect(self) -> list[Outcome | BatchEnd]:
        """What has become of the unfinished batches; waits until there is news, or for a second."""

    @abstractmethod
    def close(self) -> None:
        """Stop at once everything that still runs."""
