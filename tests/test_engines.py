"""Engines: the same results from each, and what becomes of units that fail."""

import os
import signal
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import pytest

from headstart.errors import HeadstartError, LanesError, SettingError, UnitError
from headstart.events import Event, Note, Progress, UnitEvent
from headstart.units import ENGINES, Context, Result, Store, Unit, run
from headstart.units.engines.serial import Serial
from test_store import files_of
from toy_units import Bad, Saved, Square, Steps, Together, Total, weights

ENGINE_NAMES = list(ENGINES)
HERE = Path(__file__).parent


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store", heartbeat=0.1)


@pytest.fixture(autouse=True)
def importable(monkeypatch: pytest.MonkeyPatch) -> None:
    """Worker processes find the units of the tests."""
    monkeypatch.syspath_prepend(str(HERE))


def graph(log: Path | None = None) -> Total:
    return Total(tuple(Square(n, log=log) for n in range(5)))


@pytest.mark.parametrize("engine", ENGINE_NAMES)
def test_a_graph_is_computed_once(engine: str, store: Store, tmp_path: Path) -> None:
    total = graph(tmp_path / "log")
    heard: list[Event] = []
    found = run([total], store=store, engine=engine, listener=heard.append)
    assert found.of(total).facts == {"value": 0 + 1 + 4 + 9 + 16}
    assert found.tally.to_json() == {"computed": {"square": 5, "total": 1}, "reused": {}}
    assert len(found) == 6
    states = [event.state for event in heard if isinstance(event, UnitEvent)]
    assert (states.count("started"), states.count("computed")) == (6, 6)
    assert Progress("3 squared", 1, 1) in heard
    again = run([total], store=store, engine=engine)
    # What only the total would have needed is not looked at.
    assert again.tally.to_json() == {"computed": {}, "reused": {"total": 1}}
    assert len((tmp_path / "log").read_text().splitlines()) == 5


def test_the_same_bytes_from_each(tmp_path: Path) -> None:
    units = [graph(), Saved("one"), Saved("two"), *(Square(n / 3) for n in range(4))]
    stores = []
    for engine in ENGINE_NAMES:
        stores.append(Store(tmp_path / engine))
        run(units, store=stores[-1], engine=engine, loaders={"backbone": weights})
    first, *others = ({entry.key: files_of(store.home(entry)) for entry in store.entries()} for store in stores)
    assert len(first) == 10
    assert all(first == other for other in others)


@pytest.mark.parametrize("engine", ENGINE_NAMES)
def test_a_mistake_is_raised_at_once_with_its_label(engine: str, store: Store, tmp_path: Path) -> None:
    log = tmp_path / "log"
    good = [Square(n) for n in range(4)]
    with pytest.raises(SettingError, match=r"^the bad one: a setting is wrong; mend it$"):
        run([Bad("mistake", log), *good], store=store, engine=engine)
    assert log.read_text() == "mistake\n"
    assert run(good, store=store).tally.reused == {"square": 4}


@pytest.mark.parametrize("engine", ENGINE_NAMES)
def test_an_unforeseen_error_is_tried_again(engine: str, store: Store, tmp_path: Path) -> None:
    log = tmp_path / "log"
    bad = Bad("error", log)
    with pytest.raises(UnitError, match=r"^the bad one failed 2 times: ZeroDivisionError: by nought; the same command"):
        run([bad, Square(1)], store=store, engine=engine, attempts=2)
    assert log.read_text() == "error\n" * 2
    assert run([Square(1)], store=store).tally.reused == {"square": 1}


def test_a_poison_unit_is_reported_and_the_rest_is_done(store: Store, tmp_path: Path) -> None:
    log = tmp_path / "log"
    units = [Square(n) for n in range(4)]
    heard: list[Event] = []
    with pytest.raises(UnitError, match=r"^the bad one failed 3 times: its process died \(SIGKILL\); is there enough"):
        run([Bad("dies", log), *units], store=store, engine="processes", listener=heard.append)
    assert log.read_text() == "dies\n" * 3
    assert run(units, store=store).tally.reused == {"square": 4}
    assert [event.label for event in heard if isinstance(event, UnitEvent) and event.state == "failed"] == [
        "the bad one"
    ]


def test_what_needs_a_failed_unit_is_left_out(store: Store, tmp_path: Path) -> None:
    total = Total((Square(1), Bad("mistake", tmp_path / "log")))  # type: ignore[arg-type]
    with pytest.raises(SettingError, match="the bad one"):
        run([total, Total((Square(2),))], store=store)
    assert {entry.label for entry in store.entries()} >= {"1 squared", "2 squared"}
    assert len(list(store.entries())) == 3


@pytest.mark.parametrize("engine", ENGINE_NAMES)
def test_units_go_together(engine: str, store: Store) -> None:
    units = [Together(n) for n in range(10)]
    found = run(units, store=store, engine=engine)
    widths = sorted(found.of(unit).facts["with"] for unit in units)
    assert widths == [*[3] * 6, *[4] * 4]


def test_a_bad_one_among_many_is_found(store: Store) -> None:
    units = [Together(0), Together(1, fails=True), Together(2)]
    with pytest.raises(UnitError, match="failed 3 times: ValueError: no luck"):
        run(units, store=store)
    assert run([units[0], units[2]], store=store).tally.reused == {"together": 2}


def test_a_unit_continues_where_it_was_killed(store: Store, tmp_path: Path) -> None:
    unit = Steps(4, kills=2, log=tmp_path / "log")
    assert run([unit], store=store, engine="processes").of(unit).facts == {"steps": 4}
    assert (tmp_path / "log").read_text().split() == ["1", "2", "3", "4"]
    assert list((store.folder / "work").iterdir()) == []


def test_what_cannot_be_sent_to_a_worker_is_refused(store: Store) -> None:
    with pytest.raises(SettingError, match=r"backbone cannot be sent there; name the backbone .* engine 'serial'"):
        run([Saved("one")], store=store, engine="processes", loaders={"backbone": lambda: b""})


def test_what_an_engine_is_told(store: Store) -> None:
    assert run([Square(1)], store=store, engine="processes=1").tally.computed == {"square": 1}
    for text, message in (
        ("serial=2", "engine 'serial' takes no argument, but it was given '2'; leave it out"),
        ("processes=no", "given 'no', not a number of processes; write for example processes=4"),
        ("processes=0", "given '0', not a number of processes"),
    ):
        with pytest.raises(SettingError, match=message):
            run([Square(2)], store=store, engine=text)


def test_errors_can_be_had_as_values(store: Store, tmp_path: Path) -> None:
    bad = Bad("mistake", tmp_path / "log")
    found = run([bad, Square(1)], store=store, raising=False)
    assert str(found.failed[bad.key]) == "the bad one: a setting is wrong; mend it"
    assert str(found.failed[bad.key].__cause__) == "a setting is wrong; mend it"
    assert list(found) == [Square(1).key]


@dataclass(frozen=True, eq=False)
class Lanes(Unit):
    """A unit whose error takes more than a message."""

    type: ClassVar[str] = "lanes"
    number: int

    @property
    def label(self) -> str:
        return f"lanes {self.number}"

    def compute(self, context: Context) -> Result:
        raise LanesError("a tuning failed; mend it", {self.number: SettingError("mend it")})


@pytest.mark.parametrize("engine", ["serial", "processes=1"])
def test_an_error_with_attributes_is_raised_with_them(engine: str, store: Store) -> None:
    with pytest.raises(LanesError, match="lanes 1: a tuning failed; mend it") as caught:
        run([Lanes(1)], store=store, engine=engine)
    assert str(caught.value.failures[1]) == "mend it"
    with pytest.raises(LanesError, match=r"lanes 1: a tuning failed; mend it \(1 more failed; what is done is stored"):
        run([Lanes(1), Lanes(2)], store=store, engine=engine)


def test_a_run_that_waits_for_another_says_so_once(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.modules["headstart.units.run"], "LONGEST", 0.04)
    notes: list[str] = []
    with store.leases() as other:
        leases = [lease for unit in (Square(3), Square(4)) if (lease := other.take(unit.key))]

        def release() -> None:
            for lease in leases:
                other.release(lease)

        def listen(event: Event) -> None:
            if isinstance(event, Note):
                notes.append(event.text)
                timer.start()

        timer = threading.Timer(0.2, release)
        too_late = threading.Timer(20, release)
        too_late.start()
        found = run([Square(3), Square(4), Square(5)], store=store, listener=listen)
        too_late.cancel()
    assert found.tally.computed == {"square": 3}
    assert notes == ["waiting for 2 units that another process computes, first for 3 squared"]


def test_an_unknown_engine_is_named(store: Store) -> None:
    with pytest.raises(SettingError, match="unknown engine 'cluster'; choose one of: serial, processes"):
        run([Square(1)], store=store, engine="cluster")


def test_an_engine_is_stopped_before_its_leases_are_given_back(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    def leased() -> list[str]:
        return [path.name for path in (store.folder / "leases").rglob("*.*")]

    held: list[list[str]] = []

    class Watched(Serial):
        def close(self) -> None:
            held.append(leased())
            super().close()

    class Interrupted(Square):
        def compute(self, context: Context) -> Result:
            raise KeyboardInterrupt

    monkeypatch.setitem(ENGINES._loaded, "serial", Watched)
    with pytest.raises(KeyboardInterrupt):
        run([Interrupted(3)], store=store)
    assert held == [[f"{Interrupted(3).key}.1"]]
    assert leased() == []


def test_a_disk_that_is_full_ends_the_run(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("headstart.units.store.Store._staging", full)
    with pytest.raises(HeadstartError, match="No space left on device; free some space, or choose another folder"):
        run([Square(1), Square(2)], store=store)
    assert list((store.folder / "leases").rglob("*.*")) == []


def test_a_read_only_store_answers(store: Store) -> None:
    run([Square(1)], store=store)
    for path in store.folder.rglob("*"):
        path.chmod(0o555 if path.is_dir() else 0o444)
    try:
        assert run([Square(1)], store=store).tally.reused == {"square": 1}
    finally:
        for path in store.folder.rglob("*"):
            path.chmod(0o755 if path.is_dir() else 0o644)


LONG = """
import signal
import sys
from pathlib import Path
from headstart.units import Store, run
from toy_units import Square
if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a job in the background inherits that it is ignored
    log = Path(sys.argv[2])
    try:
        run([Square(n, log=log, wait=30) for n in range(4)], store=Store(Path(sys.argv[1])), engine=sys.argv[3])
    except KeyboardInterrupt:
        print("stopped")
"""


@pytest.mark.parametrize("engine", ENGINE_NAMES)
@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_an_ended_run_leaves_no_process(engine: str, how: int, tmp_path: Path) -> None:
    log, script = tmp_path / "log", tmp_path / "long.py"
    script.write_text(LONG)
    path = os.pathsep.join([str(HERE), *filter(None, [os.environ.get("PYTHONPATH")])])
    process = subprocess.Popen(
        [sys.executable, script, tmp_path / "store", log, engine],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": path},
        start_new_session=True,
    )
    while not log.exists() or len(log.read_text().splitlines()) < (2 if engine == "processes" else 1):
        time.sleep(0.01)
        assert process.poll() is None
    workers = {int(line.split()[1]) for line in log.read_text().splitlines()}
    process.send_signal(how) if how == signal.SIGKILL else os.killpg(process.pid, how)
    out, err = process.communicate(timeout=60)
    if how == signal.SIGINT:
        assert (out, err) == ("stopped\n", "")
        assert list((tmp_path / "store" / "leases").rglob("*.*")) == []
    deadline = time.monotonic() + 10
    while any(map(alive, workers)) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not any(map(alive, workers))


def alive(pid: int) -> bool:
    try:
        return "(zombie)" not in Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return False
