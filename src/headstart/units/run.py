"""Running a graph of units: stored results are reused; the rest goes to an engine as soon as its needs are met."""

import time
from collections import Counter, deque
from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Self

from headstart.errors import HeadstartError, OutputError, StoreError, UnitError
from headstart.events import Listener, Note, UnitEvent
from headstart.units.engines import ENGINES, Engine
from headstart.units.engines.contract import BatchEnd, Loaders, Outcome
from headstart.units.forecast import DRY_RUN, forecast_of
from headstart.units.lease import Lease, Leases
from headstart.units.store import Store
from headstart.units.unit import Result, Unit

__all__ = ["ATTEMPTS", "Results", "Tally", "run"]

ATTEMPTS = 3
"""How often a unit is tried if it fails with an unforeseen error or its process dies."""

SHORTEST, LONGEST = 0.02, 1.0
"""Seconds between two checks of units that another run is computing."""


@dataclass(frozen=True)
class Tally:
    """How many units of each type were computed, and how many came from the store."""

    computed: Mapping[str, int] = field(default_factory=dict)
    reused: Mapping[str, int] = field(default_factory=dict)

    def __add__(self, other: "Tally") -> "Tally":
        """Both together."""
        return Tally(
            dict(Counter(self.computed) + Counter(other.computed)), dict(Counter(self.reused) + Counter(other.reused))
        )

    def to_json(self) -> dict[str, dict[str, int]]:
        """`{"computed": {TYPE: n}, "reused": {TYPE: n}}`."""
        return {"computed": dict(self.computed), "reused": dict(self.reused)}


class Results(Mapping[str, Result]):
    """Results by key, of the requested units and of those that they needed; `tally` counts them.

    `failed`: errors by key, if `run` was told not to raise them; the cause of each is the unit's own error.
    """

    def __init__(self, found: Mapping[str, Result], tally: Tally, failed: Mapping[str, HeadstartError]) -> None:
        self._found, self.tally, self.failed = found, tally, failed

    def __getitem__(self, key: str) -> Result:
        return self._found[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self._found)

    def __len__(self) -> int:
        return len(self._found)

    def of(self, unit: Unit) -> Result:
        """The result of `unit`."""
        return self._found[unit.key]

    def or_raise(self) -> Self:
        """Return self if nothing failed; else raise the first unit's own error, without the unit's label."""
        for error in self.failed.values():
            raise error.__cause__ if isinstance(error.__cause__, HeadstartError) else error
        return self


def run(
    units: Sequence[Unit],
    *,
    store: Store,
    engine: str = "serial",
    loaders: Loaders | None = None,
    attempts: int = ATTEMPTS,
    raising: bool = True,
    listener: Listener | None = None,
) -> Results:
    """The results of `units`, each computed at most once ever.

    Stored results are reused, and units that only a stored unit needed are not even looked up. If another run on the
    same store is computing a unit, this run does everything else first, then waits for it and says so. Ctrl-C, an error
    or a kill loses at most the units being computed: the same call continues.

    Args:
        units: what to compute, with everything that they need; the graph must have no cycle.
        store: where results are kept.
        engine: where they are computed: a name in `ENGINES`, with an argument where it takes one ("processes=4").
            "dry-run" computes nothing (see `foresee`).
        loaders: what units may ask for by name (see `Context.resource`).
        attempts: how often a unit is tried if it fails with an unforeseen error or its process dies. An error that a
            user can fix is final at once.
        raising: whether a failed unit raises its error; otherwise the error is in `Results.failed`.
        listener: called with a `UnitEvent` for each unit, and with the events of their work.

    Raises:
        HeadstartError: a unit failed with it; the message begins with the unit's label. The others are done and stored.
        UnitError: several failed, or one failed all its attempts.
        StoreError, OutputError: nothing can be written.
        PlannedOnly: the engine is "dry-run", and something is missing.
    """
    graph = _Run(store, attempts=attempts, listener=listener)
    if engine == DRY_RUN:
        graph.plan(units)
        if graph.missing:
            raise forecast_of(graph.missing.values(), store, loaders or {})
        return graph.results(raising=raising)
    name, _, argument = engine.partition("=")
    hands = ENGINES[name](store, loaders=loaders or {}, listener=listener, argument=argument or None)
    graph.plan(units)
    if graph.missing:
        store.sweep()
        with store.leases() as leases:
            try:
                graph.work_off(hands, leases)
            finally:
                hands.close()  # while the leases are held: a worker may still write where another run would work
    return graph.results(raising=raising)


class _Run:
    """The graph of units while it is computed."""

    engine: Engine
    leases: Leases

    def __init__(self, store: Store, *, attempts: int, listener: Listener | None) -> None:
        self.store, self.attempts, self.listener = store, attempts, listener
        self.found: dict[str, Result] = {}
        self.missing: dict[str, Unit] = {}
        self.failed: dict[str, HeadstartError] = {}
        self.tally: dict[str, Counter[str]] = {"computed": Counter(), "reused": Counter()}
        self.unmet: dict[str, int] = {}
        self.dependents: dict[str, list[str]] = {}
        self.ready: dict[Hashable, deque[Unit]] = {}
        self.held: deque[Unit] = deque()
        self.in_hand: dict[str, Lease] = {}
        self.tried: Counter[str] = Counter()
        self.pause = SHORTEST
        self.waited = False
        self.planned = False

    def work_off(self, engine: Engine, leases: Leases) -> None:
        """Compute what is missing."""
        self.engine, self.leases = engine, leases
        while self.ready or self.held or self.engine.busy:
            self._hand_out()
            if self.engine.busy:
                for news in self.engine.collect():
                    self._ended(news) if isinstance(news, BatchEnd) else self._finished(news)
            elif self.held and not self.ready:
                self._wait()

    def _wait(self) -> None:
        """Wait a moment for units of other runs; if that takes longer than a moment, say so once."""
        if self.pause >= LONGEST and not self.waited:
            self.waited = True
            if self.listener:
                count = len(self.held)
                self.listener(
                    Note(
                        f"waiting for {count} unit{'s' * (count > 1)} that another process computes, "
                        f"first for {self.held[0].label}"
                    )
                )
        time.sleep(self.pause)
        self.pause = min(2 * self.pause, LONGEST)

    def results(self, *, raising: bool) -> Results:
        """All results; errors are raised, or returned with them."""
        if raising and self.failed:
            error, *others = self.failed.values()
            if others:
                raise error.saying(
                    f"{error} ({len(others)} more failed; what is done is stored, and the same command continues)"
                ) from error
            raise error
        tally = Tally(dict(self.tally["computed"]), dict(self.tally["reused"]))
        return Results(self.found, tally, self.failed)

    def plan(self, units: Sequence[Unit]) -> None:
        """Look up stored results; a missing unit waits for its needs."""
        waiting = list(reversed(units))
        while waiting:
            unit = waiting.pop()
            if unit.key in self.found or unit.key in self.missing:
                continue
            if not self._reuse(unit):
                self.missing[unit.key] = unit
                waiting += reversed(unit.needs())
        for unit in list(self.missing.values()):
            needed = [need.key for need in unit.needs() if need.key in self.missing]
            self.unmet[unit.key] = len(needed)
            for key in needed:
                self.dependents.setdefault(key, []).append(unit.key)
            if not needed:
                self._queue(unit)
        self.planned = True

    def _reuse(self, unit: Unit) -> bool:
        result = self.store.get(unit, listener=self.listener)
        if result is None:
            return False
        self._know(unit, result, "reused")
        return True

    def _know(self, unit: Unit, result: Result, how: str) -> None:
        self.found[unit.key] = result
        self.tally[how][unit.type] += 1
        self.missing.pop(unit.key, None)
        self._tell(unit, "computed" if how == "computed" else "reused", result.seconds)
        for key in self.dependents.pop(unit.key, ()):
            self.unmet[key] -= 1
            if not self.unmet[key] and key in self.missing:
                self._queue(self.missing[key])

    def _queue(self, unit: Unit) -> None:
        # A unit that failed before is computed alone: if its process dies again, no other unit is lost.
        together = None if self.tried[unit.key] else unit.batch_key()
        group = (unit.type, unit.key) if together is None else (unit.type, "together", together)
        self.ready.setdefault(group, deque()).append(unit)

    def _hand_out(self) -> None:
        """Give the engine as many batches as it takes."""
        if self.held and not self.ready:  # everything else is being computed or done: check on these
            for _ in range(len(self.held)):
                self._queue(self.held.popleft())
        while self.engine.free and self.ready:
            batch = self._batch()
            if batch:
                self.pause = SHORTEST
                self.engine.submit(batch)

    def _batch(self) -> list[Unit]:
        """The next batch: units of the first group, divided evenly over the engine, that nobody else is computing."""
        group, units = next(iter(self.ready.items()))
        batches = max(-(-len(units) // units[0].most_together), min(len(units), self.engine.free))
        size = -(-len(units) // batches)
        batch: list[Unit] = []
        while units and len(batch) < size:
            unit = units.popleft()
            lease = self.leases.take(unit.key)
            if self._reuse(unit):
                self._give_back(lease)
            elif lease is None:
                self.held.append(unit)
            else:
                self.in_hand[unit.key] = lease
                batch.append(unit)
                self._tell(unit, "started")
        if not units:
            del self.ready[group]
        return batch

    def _finished(self, outcome: Outcome) -> None:
        unit = self.missing[outcome.key]
        self._give_back(self.in_hand.pop(outcome.key))
        if outcome.error is not None:
            self._fail(unit, outcome.error)
        elif (result := self.store.get(unit, listener=self.listener)) is None:
            self._again(unit, StoreError(f"its result cannot be read back from {self.store.folder}; check the disk"))
        else:
            self._know(unit, result, "computed")

    def _ended(self, end: BatchEnd) -> None:
        left = [self.missing[key] for key in end.keys if key in self.in_hand]
        error = end.error or UnitError("it gave no result; its compute_many must yield one for each unit")
        for unit in left:
            self._give_back(self.in_hand.pop(unit.key))
            if len(left) > 1 or end.died:
                self._again(unit, error)
            else:
                self._fail(unit, error)

    def _give_back(self, lease: Lease | None) -> None:
        if lease is not None:
            self.leases.release(lease)

    def _fail(self, unit: Unit, error: Exception) -> None:
        """An error that a user can fix is not tried again; if nothing can be written, nothing more is computed."""
        if isinstance(error, StoreError | OutputError):
            raise error
        if isinstance(error, HeadstartError):
            self._give_up(unit, error)
        else:
            self._again(unit, error)

    def _again(self, unit: Unit, error: Exception) -> None:
        self.tried[unit.key] += 1
        if self.tried[unit.key] < self.attempts:
            self._queue(unit)
        else:
            self._give_up(unit, error)

    def _give_up(self, unit: Unit, error: Exception) -> None:
        failed = _labelled(unit, error, times=max(self.tried[unit.key], 1))
        failed.__cause__ = error
        self.failed[unit.key] = failed
        del self.missing[unit.key]
        waiting = self.dependents.pop(unit.key, [])
        while waiting:  # the units that need it cannot be computed either
            key = waiting.pop()
            self.missing.pop(key, None)
            waiting += self.dependents.pop(key, [])
        self._tell(unit, "failed")

    def _tell(self, unit: Unit, state: str, seconds: float | None = None) -> None:
        if self.listener:
            left = len(self.missing) if self.planned else None
            self.listener(UnitEvent(unit.type, unit.key, unit.label, state, seconds, left))  # type: ignore[arg-type]


def _labelled(unit: Unit, error: Exception, *, times: int) -> HeadstartError:
    """What the user is told about a failed unit."""
    if isinstance(error, HeadstartError) and not isinstance(error, UnitError):
        return error.saying(f"{unit.label}: {error}")
    text = str(error) if isinstance(error, UnitError) else f"{type(error).__name__}: {error}"
    return UnitError(f"{unit.label} failed {times} times: {text}; the same command tries it again")
