"""What a run would compute, and about how long that would take, told before anything is computed."""

import json
import statistics
from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from headstart.errors import HeadstartError
from headstart.events import Event, LeftOut, UnitEvent
from headstart.units.engines.contract import Loaders, WorkerContext
from headstart.units.store import Store
from headstart.units.unit import Load, Unit

__all__ = ["DRY_RUN", "SPEEDS", "Expected", "Forecast", "PlannedOnly", "forecast_of", "foresee", "here"]

DRY_RUN = "dry-run"
"""The engine that computes nothing: the first graph with missing units ends in `PlannedOnly`."""

SPEEDS: Mapping[str, tuple[float, float]] = {"cpu": (1e10, 1e11), "mps": (5e11, 5e12), "cuda": (5e12, 1e14)}
"""Floating point operations a second, from slow to fast, that are assumed where nothing has been measured."""

SPREAD = (0.6, 1.6)
"""How far below and above the time of earlier results an estimate reaches."""

SPREAD_OF_A_PASS = (0.7, 2.5)
"""The same for a time that is reckoned from a short pass."""


Later = Mapping[str, tuple[int, Sequence[Unit]]]
"""By type, how many units would follow, and some that they are like, or none."""


@dataclass(frozen=True)
class Expected:
    """The units of one type: how many are to be computed and how many are stored; what computing them takes.

    `tokens`: those that the backbone reads; `seconds`: from low to high, in one process; `measured`: how many earlier
    results the seconds are taken from, 0 if they are reckoned otherwise: from `speed`, the operations a second that a
    short pass did, or, where that is 0, from `SPEEDS`. `later`: whether the inputs depend on results that are not there
    yet, so that the units are counted but could not be looked up in the store. `device`: where they would be computed.
    """

    type: str
    compute: int
    stored: int = 0
    tokens: int = 0
    seconds: tuple[float, float] = (0.0, 0.0)
    measured: int = 0
    later: bool = False
    device: str = "cpu"
    speed: float = 0.0

    def and_those_of(self, other: "Expected") -> "Expected":
        """These units and others of the type."""
        low, high = (one + more for one, more in zip(self.seconds, other.seconds, strict=True))
        return replace(
            self, compute=self.compute + other.compute, stored=self.stored + other.stored,
            tokens=self.tokens + other.tokens, seconds=(low, high), measured=max(self.measured, other.measured),
            speed=max(self.speed, other.speed),
        )  # fmt: skip


@dataclass(frozen=True)
class Forecast:
    """What a run would compute, by type of unit; `left_out`: modules that would take no part, with the reasons."""

    expected: tuple[Expected, ...] = ()
    left_out: tuple[LeftOut, ...] = ()

    @property
    def tokens(self) -> int:
        """The tokens that the backbone would read."""
        return sum(each.tokens for each in self.expected)

    @property
    def seconds(self) -> tuple[float, float]:
        """The time that it would take in one process, from low to high."""
        low, high = zip(*(each.seconds for each in self.expected), strict=True) if self.expected else ((), ())
        return sum(low), sum(high)

    @property
    def basis(self) -> str:
        """What the time is estimated from."""
        measured = sum(each.measured for each in self.expected)
        assumed = [each for each in self.expected if each.compute and each.tokens and not each.measured]
        said = [f"{measured} earlier results of these types on this backbone and device"] if measured else []
        if assumed:
            device, done = assumed[0].device, assumed[0].speed / 1e9
            slow, fast = (f"{speed / 1e9:,.0f}" for speed in _speeds(device))
            speed = f"a short pass on {device} did {done:,.0f} billion operations a second just now"
            wide = f"{slow} to {fast} billion operations a second are assumed on {device}"
            types = ", ".join(dict.fromkeys(each.type for each in assumed))
            said.append(f"nothing measured yet for {types}: {speed if done else wide}")
        unknown = [each.type for each in self.expected if each.compute and not each.tokens and not each.measured]
        if unknown:
            said.append(f"without {', '.join(dict.fromkeys(unknown))}, whose time is not known beforehand")
        return "; ".join(said) or "nothing has to be computed"

    def with_stored(self, stored: Mapping[str, int]) -> "Forecast":
        """The same, with so many units by type found in the store."""
        known = {each.type: each for each in self.expected if not each.later}
        types = dict.fromkeys([*stored, *known])
        now = [replace(known.get(name, Expected(name, 0)), stored=stored.get(name, 0)) for name in types]
        return Forecast((*now, *(each for each in self.expected if each.later)))

    def to_json(self) -> dict[str, Any]:
        """As JSON data."""
        low, high = self.seconds
        return {
            "units": [
                {"type": each.type, "compute": each.compute, "stored": each.stored, "tokens": each.tokens,
                 "seconds": list(each.seconds), "measured": each.measured, "later": each.later,
                 "at_most": each.later}
                for each in self.expected
            ],
            "tokens": self.tokens, "minutes": [low / 60, high / 60], "basis": self.basis,
            "left_out": [{"module": each.name, "reason": each.reason} for each in self.left_out],
        }  # fmt: skip


class PlannedOnly(HeadstartError):  # noqa: N818 - it is the answer to a question, rather than a failure
    """Raised by `run` with the engine "dry-run" in place of computing what is missing. `foresee` catches it."""

    def __init__(self, forecast: Forecast, ask: Callable[[Sequence[Unit], int], Expected]) -> None:
        super().__init__("engine 'dry-run' computes nothing; use headstart.units.foresee, or another engine")
        self.forecast, self._ask = forecast, ask

    def followed_by(self, *parts: Later) -> "PlannedOnly":
        """The same error, with units that would follow: by type, how many, and some that they are like, or none.

        They are not looked up in the store, because their inputs depend on what is missing. Each part is estimated by
        the units that it is like, and those of one type are added up.
        """
        more: dict[str, Expected] = {}
        for part in parts:
            for name, (count, like) in part.items():
                own = replace(self._ask(like, count), later=True) if like else Expected(name, count, later=True)
                more[name] = own if name not in more else more[name].and_those_of(own)
        return PlannedOnly(Forecast((*self.forecast.expected, *more.values())), self._ask)


def here(engine: str) -> str:
    """The engine for work that takes less time in this process than starting another one: "serial", or "dry-run"."""
    return DRY_RUN if engine == DRY_RUN else "serial"


def foresee(call: Callable[..., Any]) -> Forecast:
    """What `call` would compute. It is called with `engine` and `progress`, which it passes on to the library.

    >>> foresee(lambda engine, progress: None)
    Forecast(expected=(), left_out=())
    """
    seen: dict[str, str] = {}
    left_out: dict[LeftOut, None] = {}

    def listen(event: Event) -> None:
        if isinstance(event, UnitEvent) and event.state == "reused":
            seen[event.key] = event.type
        elif isinstance(event, LeftOut):
            left_out[event] = None

    found = Forecast()
    try:
        call(engine=DRY_RUN, progress=listen)
    except PlannedOnly as planned:
        found = planned.forecast
    return replace(found.with_stored(Counter(seen.values())), left_out=tuple(left_out))


def forecast_of(missing: Iterable[Unit], store: Store, loaders: Loaders) -> PlannedOnly:
    """The error that says what computing `missing` would take."""
    types: dict[str, list[Unit]] = {}
    for unit in missing:
        types.setdefault(unit.type, []).append(unit)
    judge = _Judge(store, WorkerContext(store, loaders))
    found = tuple(judge.expect(units, len(units)) for units in types.values())
    return PlannedOnly(Forecast(found), judge.expect)


@dataclass
class _Judge:
    """Estimates what units take, from earlier results if there are some."""

    store: Store
    context: WorkerContext
    _speeds: dict[tuple[str, str], dict[Hashable, tuple[float, int]]] = field(default_factory=dict)

    def expect(self, units: Sequence[Unit], count: int) -> Expected:
        """What `count` units like these take, all of one type."""
        rates = self._rates(units[0])
        loads: dict[Any, Load] = {}  # units that share a pass read its tokens once
        unknown: dict[Any, Load] = {}
        seconds, used = 0.0, dict[Hashable, int]()
        for unit in units:
            load, pace = unit.load(self.context), unit.pace_of(unit.inputs)
            key = load.shared if load.shared is not None else unit.key
            loads[key] = load
            if pace in rates:
                rate, used[pace] = rates[pace]
                seconds += rate * unit.size_of(unit.inputs)
            else:
                unknown[key] = load
        share, device = count / len(units), next(load.device for load in loads.values())
        known, work = share * seconds, share * sum(load.operations for load in unknown.values())
        measure = next((load.speed for load in unknown.values() if load.speed and load.operations), None)
        speed = measure() if measure else 0.0
        slow, fast = _speeds(device)
        spread = SPREAD_OF_A_PASS if speed else (1.0, fast / slow)
        low, high = (known * one + work / (speed or fast) * more for one, more in zip(SPREAD, spread, strict=True))
        return Expected(
            units[0].type, count, tokens=round(share * sum(load.tokens for load in loads.values())),
            seconds=(low, high), measured=sum(used.values()), device=device, speed=speed,
        )  # fmt: skip

    def _rates(self, like: Unit) -> dict[Hashable, tuple[float, int]]:
        """By pace, the median seconds of earlier units of this type on this backbone and device, by their size; and
        how many these are."""
        backbone = json.dumps(like.inputs.get("backbone"), sort_keys=True)
        if (like.type, backbone) not in self._speeds:
            found: dict[Hashable, list[float]] = {}
            for entry in self.store.entries(type=like.type):
                if json.dumps(entry.inputs.get("backbone"), sort_keys=True) == backbone and entry.seconds > 0:
                    rate = entry.seconds / like.size_of(entry.inputs)
                    found.setdefault(like.pace_of(entry.inputs), []).append(rate)
            self._speeds[like.type, backbone] = {
                pace: (statistics.median(each), len(each)) for pace, each in found.items()
            }
        return self._speeds[like.type, backbone]


def _speeds(device: str) -> tuple[float, float]:
    """The speeds that are assumed on a device, those of a processor if it is none of the known ones."""
    return SPEEDS.get(device, SPEEDS["cpu"])
