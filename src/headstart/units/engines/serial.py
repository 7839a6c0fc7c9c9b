"""`serial`: one batch after another, in the caller's process."""

from collections.abc import Iterator, Sequence

from headstart.errors import SettingError
from headstart.events import Listener
from headstart.units.engines.contract import BatchEnd, Engine, Loaders, Outcome, WorkerContext, work_off
from headstart.units.store import Store
from headstart.units.unit import Unit

__all__ = ["Serial"]


class Serial(Engine):
    """Computes in the caller's process, one batch at a time."""

    def __init__(self, store: Store, *, loaders: Loaders, listener: Listener | None, argument: str | None) -> None:
        super().__init__(store, loaders=loaders, listener=listener, argument=argument)
        if argument is not None:
            raise SettingError(f"engine 'serial' takes no argument, but it was given '{argument}'; leave it out")
        self._context = WorkerContext(store, loaders, listener)
        self._running: Iterator[Outcome | BatchEnd] | None = None

    @property
    def free(self) -> int:
        """1 if no batch is unfinished, else 0."""
        return int(self._running is None)

    @property
    def busy(self) -> bool:
        """Whether a batch is unfinished."""
        return self._running is not None

    def submit(self, batch: Sequence[Unit]) -> None:
        """Take a batch; `collect` computes it."""
        self._running = work_off(batch, self._context)

    def collect(self) -> list[Outcome | BatchEnd]:
        """Compute until the next unit is finished."""
        assert self._running is not None
        found = next(self._running)
        if isinstance(found, BatchEnd):
            self._running = None
        return [found]

    def close(self) -> None:
        """Nothing to stop: nothing runs outside the caller's own thread."""
        self._running = None
