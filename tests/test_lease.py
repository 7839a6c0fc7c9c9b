"""Leases, with real processes: one holder at a time, and the dead are noticed."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from headstart.units import Store, run
from headstart.units.lease import BEATS, Leases, gone, who
from toy_units import Square

BEAT = 0.02
HERE = Path(__file__).parent

HOLD = """
import sys, time
from pathlib import Path
from headstart.units.lease import Leases
with Leases(Path(sys.argv[1]), heartbeat=float(sys.argv[2])) as leases:
    print(bool(leases.take(sys.argv[3])), flush=True)
    time.sleep(60)
"""

RUN = """
import sys
from pathlib import Path
from headstart.units import Store, run
from toy_units import Square
log = Path(sys.argv[2])
units = [Square(n, log=log, wait=0.01) for n in range(int(sys.argv[3]))]
print(run(units, store=Store(Path(sys.argv[1]), heartbeat=0.05)).tally.to_json())
"""


@pytest.fixture
def started() -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Starts Python programs; what still runs at the end is killed."""
    processes = []

    def start(script: str, *arguments: Any) -> subprocess.Popen[str]:
        path = os.pathsep.join([str(HERE), *filter(None, [os.environ.get("PYTHONPATH")])])
        process = subprocess.Popen(
            [sys.executable, "-c", script, *map(str, arguments)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=os.environ | {"PYTHONPATH": path},
        )
        processes.append(process)
        return process

    yield start
    for process in processes:
        process.kill()
        process.communicate()


def end(process: subprocess.Popen[str]) -> None:
    process.send_signal(signal.SIGKILL)
    process.communicate()


def take_within(leases: Leases, key: str, seconds: float) -> float | None:
    """After how many seconds `key` could be taken."""
    began = time.monotonic()
    while time.monotonic() - began < seconds:
        if leases.take(key):
            return time.monotonic() - began
        time.sleep(BEAT / 2)
    return None


KEY = "ab" * 32


def test_one_holder_at_a_time(tmp_path: Path) -> None:
    with Leases(tmp_path / "leases", heartbeat=BEAT) as one, Leases(tmp_path / "leases", heartbeat=BEAT) as other:
        lease = one.take(KEY)
        assert lease is not None
        # The pulse beats: however long the other waits, this holder is alive.
        assert take_within(other, KEY, 3 * BEATS * BEAT) is None
        assert other.take("cd" * 32) is not None
        one.release(lease)
        assert other.take(KEY) is not None
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


def test_a_killed_holder_on_this_machine_is_noticed_at_once(
    tmp_path: Path, started: Callable[..., subprocess.Popen[str]]
) -> None:
    holder = started(HOLD, tmp_path / "leases", 30, KEY)
    assert holder.stdout is not None
    assert holder.stdout.readline() == "True\n"
    with Leases(tmp_path / "leases", heartbeat=30) as leases:
        assert leases.take(KEY) is None
        end(holder)
        lease = leases.take(KEY)
        assert lease is not None
        assert lease.generation == 2
        leases.release(lease)
        assert list((tmp_path / "leases").rglob("*.*")) == []
        leases.sweep()
        assert [path.name for path in (tmp_path / "pulses").iterdir()] == [leases.token]


def as_of_another_machine(folder: Path, key: str) -> None:
    """Rewrite a lease as if its holder were elsewhere, so that its pulse alone tells whether it is alive."""
    path = folder / key[:2] / f"{key}.1"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"host": "elsewhere"}))


def test_a_holder_elsewhere_is_dead_when_its_pulse_stands_still(
    tmp_path: Path, started: Callable[..., subprocess.Popen[str]]
) -> None:
    holder = started(HOLD, tmp_path / "leases", BEAT, KEY)
    assert holder.stdout is not None
    assert holder.stdout.readline() == "True\n"
    as_of_another_machine(tmp_path / "leases", KEY)
    with Leases(tmp_path / "leases", heartbeat=BEAT) as leases:
        assert take_within(leases, KEY, 2 * BEATS * BEAT) is None
        end(holder)
        waited = take_within(leases, KEY, 10)
        assert waited is not None
        assert waited >= (BEATS - 2) * BEAT


def test_many_who_find_a_holder_dead_make_one_successor(tmp_path: Path) -> None:
    for turn in range(20):
        key = f"{turn:064d}"
        dead = Leases(tmp_path / "leases")
        with dead:
            assert dead.take(key)
            dead._held.clear()  # it ends without giving back
        path = tmp_path / "leases" / key[:2] / f"{key}.1"
        path.write_text(json.dumps(json.loads(path.read_text()) | {"pid": 2**22 + 1}))
        crowd = [Leases(tmp_path / "leases", heartbeat=5) for _ in range(8)]
        gate = threading.Barrier(len(crowd))
        winners: list[Leases] = []

        def fight(leases: Leases, *, key: str = key, gate: Any = gate, winners: list[Leases] = winners) -> None:
            gate.wait()
            for _ in range(5):
                if leases.take(key):
                    winners.append(leases)
                    return

        for leases in crowd:
            leases.__enter__()
        threads = [threading.Thread(target=fight, args=(leases,)) for leases in crowd]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(winners) == 1
        for leases in crowd:
            leases.__exit__()
        assert list((tmp_path / "leases").rglob(f"{key}*")) == []


def test_a_lease_without_content_is_outlived(tmp_path: Path) -> None:
    """Its holder died between making the file and writing it."""
    path = tmp_path / "leases" / KEY[:2] / f"{KEY}.1"
    path.parent.mkdir(parents=True)
    path.write_bytes(b"")
    with Leases(tmp_path / "leases", heartbeat=BEAT) as leases:
        assert leases.take(KEY) is None
        assert take_within(leases, KEY, 10) is not None


def test_who_is_gone() -> None:
    assert not gone(who())
    assert gone(who() | {"pid": 2**22 + 1})
    assert not gone(who() | {"pid": 2**22 + 1, "host": "elsewhere"})
    assert not gone({})
    assert not gone(who() | {"pid": "1"})


def test_processes_that_run_the_same_units_share_them(
    tmp_path: Path, started: Callable[..., subprocess.Popen[str]]
) -> None:
    crowd = [started(RUN, tmp_path / "store", tmp_path / "log", 60) for _ in range(3)]
    said = [process.communicate(timeout=60) for process in crowd]
    assert [process.returncode for process in crowd] == [0, 0, 0], said
    lines = (tmp_path / "log").read_text().splitlines()
    assert sorted(float(line.split()[0]) for line in lines) == list(range(60))
    assert len(list(Store(tmp_path / "store").entries())) == 60


def test_a_killed_run_is_continued_by_another(tmp_path: Path, started: Callable[..., subprocess.Popen[str]]) -> None:
    log = tmp_path / "log"
    process = started(RUN, tmp_path / "store", log, 60)
    while not log.exists() or len(log.read_text().splitlines()) < 5:
        time.sleep(0.005)
    end(process)
    units = [Square(n, log=log) for n in range(60)]
    tally = run(units, store=Store(tmp_path / "store", heartbeat=0.05)).tally
    assert tally.computed["square"] + tally.reused["square"] == 60
    assert tally.reused["square"] >= 4
    # At most the one unit that was in hand was begun twice.
    assert 60 <= len(log.read_text().splitlines()) <= 61
    assert list((tmp_path / "store" / "leases").rglob("*.*")) == []
