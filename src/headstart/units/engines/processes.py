"""`processes`: worker processes on this machine, each with its own backbone."""

import contextlib
import dataclasses
import multiprocessing
import os
import pickle
import signal
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from typing import Any

from headstart.errors import SettingError, UnitError
from headstart.events import Event, Listener
from headstart.units.engines.contract import BatchEnd, Engine, Loaders, Outcome, WorkerContext, work_off
from headstart.units.store import Store
from headstart.units.unit import Unit

__all__ = ["Processes"]

USUAL_WORKERS = 2
MOST_WORKERS = 1024

THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS")
"""The environment variables that tell a worker's libraries how many cores they may use."""

PATIENCE = 1.0
"""How many seconds `collect` waits for news."""


@dataclass
class _Worker:
    process: SpawnProcess
    pipe: Connection
    keys: tuple[str, ...] = ()


class Processes(Engine):
    """Computes in N processes ("processes=N"; two if no number is given), which share this machine's cores evenly.

    They are spawned, so a script that uses them must guard its entry with `if __name__ == "__main__":`.

    Raises:
        SettingError: a loader cannot be sent to another process, or N is not a number of at least 1.
    """

    def __init__(self, store: Store, *, loaders: Loaders, listener: Listener | None, argument: str | None) -> None:
        super().__init__(store, loaders=loaders, listener=listener, argument=argument)
        self.workers = USUAL_WORKERS if argument is None else _count(argument)
        try:
            self._context = pickle.dumps(WorkerContext(store, loaders))
        except Exception as error:
            raise SettingError(
                f"engine 'processes' loads what it needs in each worker, and {', '.join(loaders) or 'that'} cannot be "
                "sent there; name the backbone instead of passing a loaded one, or use engine 'serial'"
            ) from error
        self._workers: list[_Worker] = []

    @property
    def free(self) -> int:
        """The number of workers without a batch, including those not started yet."""
        return self.workers - sum(bool(worker.keys) for worker in self._workers)

    @property
    def busy(self) -> bool:
        """Whether a worker has a batch in hand."""
        return any(worker.keys for worker in self._workers)

    def submit(self, batch: Sequence[Unit]) -> None:
        """Hand a batch to an idle worker, or to a new one."""
        worker = next((worker for worker in self._workers if not worker.keys), None) or self._start()
        worker.keys = tuple(unit.key for unit in batch)
        with contextlib.suppress(OSError):  # it died while idle: `collect` will notice
            worker.pipe.send_bytes(pickle.dumps((worker.keys, pickle.dumps(list(batch)))))

    def collect(self) -> list[Outcome | BatchEnd]:
        """What the workers reported; for a worker that died, the end of its batch."""
        found: list[Outcome | BatchEnd] = []
        ready = wait([worker.pipe for worker in self._workers if worker.keys], PATIENCE)
        for worker in [worker for worker in self._workers if worker.pipe in ready]:
            try:
                said = pickle.loads(worker.pipe.recv_bytes())
            except (EOFError, OSError):
                found.append(self._bury(worker))
                continue
            if isinstance(said, Outcome | BatchEnd):
                found.append(said)
                worker.keys = () if isinstance(said, BatchEnd) else worker.keys
            elif self.listener:
                self.listener(said)
        return found

    def close(self) -> None:
        """Stop all workers; what they were computing continues another time."""
        for worker in self._workers:
            worker.process.terminate()
        for worker in self._workers:
            worker.process.join()
            worker.pipe.close()
        self._workers = []

    def _start(self) -> _Worker:
        context = multiprocessing.get_context("spawn")
        mine, its = context.Pipe()
        process = context.Process(target=_serve, args=(its, self._context), name="headstart worker", daemon=True)
        with _share_of_cores(self.workers):
            process.start()
        its.close()
        worker = _Worker(process, mine)
        self._workers.append(worker)
        return worker

    def _bury(self, worker: _Worker) -> BatchEnd:
        worker.process.join()
        worker.pipe.close()
        self._workers.remove(worker)
        code = worker.process.exitcode
        how = signal.Signals(-code).name if code is not None and code < 0 else f"exit code {code}"
        return BatchEnd(worker.keys, UnitError(f"its process died ({how}); is there enough memory?"), died=True)


def _count(argument: str) -> int:
    if not argument.isdecimal() or not 1 <= int(argument) <= MOST_WORKERS:
        raise SettingError(
            f"engine 'processes' is given '{argument}', not a number of processes; write for example processes=4"
        )
    return int(argument)


@contextlib.contextmanager
def _share_of_cores(workers: int) -> Iterator[None]:
    """Limit a process that starts in this block to its share of the cores, unless the user said otherwise."""
    told = [name for name in THREADS if name not in os.environ]
    os.environ.update(dict.fromkeys(told, str(max(1, (os.cpu_count() or 1) // workers))))
    try:
        yield
    finally:
        for name in told:
            del os.environ[name]


def _serve(pipe: Connection, context: bytes) -> None:
    """What a worker does: it takes batches and sends outcomes and events, until no more batches come."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the parent process decides
    threading.Thread(target=_die_with_parent, daemon=True).start()
    lock = threading.Lock()

    def say(what: Event | Outcome | BatchEnd) -> None:
        with lock:
            pipe.send_bytes(_sendable(what))

    found: WorkerContext | None = None
    with contextlib.suppress(EOFError):
        while True:
            keys, packed = pickle.loads(pipe.recv_bytes())
            try:
                found = found or dataclasses.replace(pickle.loads(context), listener=say)
                batch = pickle.loads(packed)
            except Exception as error:
                say(BatchEnd(keys, UnitError(f"its process cannot load it ({type(error).__name__}: {error})")))
                continue
            for outcome in work_off(batch, found):
                say(outcome)


def _die_with_parent() -> None:
    """A killed parent cannot end its workers, and its leases are soon another's: computing on would be double work."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    wait([parent.sentinel])
    os._exit(1)


def _sendable(what: Any) -> bytes:
    """`what`, pickled; an error that cannot be is sent as its text."""
    try:
        packed = pickle.dumps(what)
        pickle.loads(packed)
    except Exception:
        error = UnitError(f"{type(what.error).__name__}: {what.error}")
        packed = pickle.dumps(
            Outcome(what.key, what.seconds, error) if isinstance(what, Outcome) else BatchEnd(what.keys, error)
        )
    return packed
