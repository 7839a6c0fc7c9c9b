"""Leases: two processes on one store never compute one unit twice, and never wait for a dead one.

A lease is a small file `KEY.1`, made with O_EXCL, which is atomic on network filesystems too (flock is not). Who finds
the holder dead makes `KEY.2`, and only one can; after that `KEY.3`, and so on: the highest that exists holds, and
nothing has to be taken away from anybody. A holder is dead when its process is gone from this very machine, or when its
pulse, a counter that one of its threads writes, has not moved for a dozen beats by the watcher's own clock. Clocks of
two machines are never compared.

What remains: a process that was stopped for longer than that (a laptop asleep) finds on waking that its unit was
computed by another as well. Both store the same result, so nothing is wrong, only done twice.
"""

import contextlib
import functools
import json
import os
import secrets
import socket
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from headstart.errors import StoreError

__all__ = ["BEATS", "HEARTBEAT", "Lease", "Leases", "gone", "who"]

HEARTBEAT = 5.0
"""Seconds between two beats of a process that holds leases."""

BEATS = 12
"""A pulse that missed this many beats is a dead process'."""

FORGOTTEN = 86400.0
"""Seconds after which what another machine left and does not touch is taken away."""

WIDTH = 256
"""Bytes of a pulse, always the same: it is written in place, which readers over a network see at once."""


@dataclass(frozen=True)
class Lease:
    """The right to compute the unit `key`, as generation `generation`; `before`: the dead leases below it."""

    key: str
    generation: int
    content: bytes
    before: dict[int, bytes] = field(default_factory=dict)


class Leases:
    """The leases that one run holds in `folder`, and its pulse. A context manager: leaving it gives all back."""

    def __init__(self, folder: Path, *, heartbeat: float = HEARTBEAT) -> None:
        self.token = secrets.token_hex(8)
        self._folder, self._heartbeat = folder, heartbeat
        self._held: dict[str, Lease] = {}
        self._seen: dict[str, tuple[tuple[int, bytes, bytes], float]] = {}
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._beat, name="headstart pulse", daemon=True)

    def __enter__(self) -> Self:
        try:
            pulses(self._folder).mkdir(parents=True, exist_ok=True)
            self._write_pulse(0)
        except OSError as error:
            raise StoreError(
                f"cannot write to the store at {self._folder.parent}: {error.strerror or error}; "
                "choose another with --store or HEADSTART_STORE"
            ) from error
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        for lease in list(self._held.values()):
            self.release(lease)
        self._stopped.set()
        self._thread.join()
        self._pulse().unlink(missing_ok=True)

    def take(self, key: str) -> Lease | None:
        """The lease of `key`, or `None` when somebody who seems alive holds it. Ask again later: the dead are noticed
        by being asked for twice."""
        content = json.dumps(who() | {"token": self.token, "nonce": secrets.token_hex(4)}).encode()
        if not self._create(key, 1, content):
            return self._take_over(key, content)
        if self._generations(key)[-1:] != [1]:  # the holder of a higher one is just giving it back
            self._path(key, 1).unlink(missing_ok=True)
            return None
        return self._hold(Lease(key, 1, content))

    def release(self, lease: Lease) -> None:
        """Give a lease back, with the dead ones below it."""
        # From the lowest up: as long as this one stands, nobody else can come to hold a lower one.
        for generation, content in sorted({**lease.before, lease.generation: lease.content}.items()):
            path = self._path(lease.key, generation)
            if _read(path) == content:
                path.unlink(missing_ok=True)
        self._held.pop(lease.key, None)

    def sweep(self) -> None:
        """Take away what dead processes of this machine left: their leases and pulses."""
        for path in list(self._folder.glob("??/*")):
            if gone(_facts(_read(path))) and (lease := self.take(path.name.rpartition(".")[0])):
                self.release(lease)
        now = self._pulse().stat().st_mtime  # by the clock of whoever keeps the files
        for path in list(pulses(self._folder).iterdir()):
            with contextlib.suppress(OSError):
                if gone(_facts(_read(path))) or now - path.stat().st_mtime > FORGOTTEN:
                    path.unlink()

    def _hold(self, lease: Lease) -> Lease:
        self._held[lease.key] = lease
        self._seen.pop(lease.key, None)
        return lease

    def _take_over(self, key: str, content: bytes) -> Lease | None:
        """The next generation above a dead holder's, if it is dead and nobody else was faster."""
        known = {generation: _read(self._path(key, generation)) for generation in self._generations(key)}
        if not known:
            return None  # given back in this very moment: the next call finds it free
        top = max(known)
        if not self._dead(key, top, known[top]) or not self._create(key, top + 1, content):
            return None
        lease = Lease(key, top + 1, content, known)
        # Between look and creation another may have taken over, finished and given back, and a third begun anew.
        now = _read(self._path(key, top))
        if self._generations(key)[-1:] != [top + 1] or now not in (known[top], b""):
            self._path(key, top + 1).unlink(missing_ok=True)
            return None
        return self._hold(lease)

    def _dead(self, key: str, generation: int, content: bytes) -> bool:
        holder = _facts(content)
        if gone(holder):
            return True
        pulse = _read(pulses(self._folder) / str(holder.get("token", "none")))
        seen = (generation, content, pulse)
        if self._seen.get(key, (None, 0.0))[0] != seen:
            self._seen[key] = (seen, time.monotonic())
            return False
        every = _facts(pulse).get("every", self._heartbeat)
        return time.monotonic() - self._seen[key][1] > BEATS * float(every)

    def _generations(self, key: str) -> list[int]:
        """Which leases of `key` there are, lowest first."""
        try:
            names = os.listdir(self._path(key, 1).parent)  # noqa: PTH208 - names alone, thousands of times
        except FileNotFoundError:
            return []
        return sorted(int(name[len(key) + 1 :]) for name in names if name.startswith(f"{key}."))

    def _create(self, key: str, generation: int, content: bytes) -> bool:
        path = self._path(key, generation)
        try:
            _create(path, content)
        except FileExistsError:
            return False
        except FileNotFoundError:
            path.parent.mkdir(parents=True, exist_ok=True)
            return self._create(key, generation, content)
        except OSError as error:
            raise StoreError(
                f"cannot write {path}: {error.strerror or error}; free some space or choose another store with --store"
            ) from error
        return True

    def _path(self, key: str, generation: int) -> Path:
        return self._folder / key[:2] / f"{key}.{generation}"

    def _pulse(self) -> Path:
        return pulses(self._folder) / self.token

    def _beat(self) -> None:
        beat = 0
        while not self._stopped.wait(self._heartbeat):
            beat += 1
            with contextlib.suppress(OSError):  # a full disk or a network that is away: the next beat may succeed
                self._write_pulse(beat)

    def _write_pulse(self, beat: int) -> None:
        text = json.dumps(who() | {"every": self._heartbeat, "beat": beat}).ljust(WIDTH)
        descriptor = os.open(self._pulse(), os.O_WRONLY | os.O_CREAT, 0o644)
        try:
            os.write(descriptor, text.encode())
        finally:
            os.close(descriptor)


def pulses(folder: Path) -> Path:
    """Where the holders of the leases in `folder` write their pulses."""
    return folder.with_name("pulses")


def who() -> dict[str, Any]:
    """This process, as the holder of a lease says it."""
    return {"host": _host(), "pid": os.getpid()}


def gone(holder: dict[str, Any]) -> bool:
    """Whether a holder is a process of this very machine that is no more. Of others nobody can say it so quickly."""
    if os.name != "posix" or holder.get("host") != _host() or not isinstance(holder.get("pid"), int):
        return False
    try:
        os.kill(holder["pid"], 0)
    except ProcessLookupError:
        return True
    except (OSError, OverflowError):
        return False
    return False


@functools.cache
def _host() -> str:
    """This machine since it was started, and the container in it: process numbers mean something within one only."""
    parts = [socket.gethostname()]
    with contextlib.suppress(OSError):
        parts.append(Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()[:8])
        parts.append(str(Path("/proc/self/ns/pid").readlink()))
    return "/".join(parts)


def _create(path: Path, content: bytes) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
    try:
        os.write(descriptor, content)
    finally:
        os.close(descriptor)


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:
        return b""


def _facts(content: bytes) -> dict[str, Any]:
    try:
        found = json.loads(content)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}
