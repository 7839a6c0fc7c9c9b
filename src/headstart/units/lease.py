"""Leases: two processes on one store never compute one unit twice, and never wait for a dead one.

A lease is a small file `KEY.1`, made with O_EXCL, which is atomic on network filesystems too (flock is not). A process
that finds the holder dead makes `KEY.2`, which only one process can do; after that comes `KEY.3`, and so on. The file
with the highest number is the valid lease, so no lease ever has to be taken away. A holder is dead when its process is
gone from this very machine, or when its pulse, a counter that one of its threads writes, has not moved for a dozen
beats by the watcher's own clock. The clocks of two machines are never compared.

One case remains: a process that was stopped for longer than that (a laptop asleep) may find on waking that another
process computed its unit as well. Both store the same result, so the work is done twice, but nothing is wrong.
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
"""A process whose pulse missed this many beats is dead."""

FORGOTTEN = 86400.0
"""Files of another machine are removed once they have not been touched for this many seconds."""

WIDTH = 256
"""The fixed size of a pulse in bytes: it is overwritten in place, which readers over a network see at once."""


@dataclass(frozen=True)
class Lease:
    """The right to compute the unit `key`; `generation` is the lease's number, `before` the dead leases below it."""

    key: str
    generation: int
    content: bytes
    before: dict[int, bytes] = field(default_factory=dict)


class Leases:
    """The leases that one run holds in `folder`, and its pulse. Leaving the context manager gives all of them back."""

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
        """The lease of `key`, or `None` if another process, apparently alive, holds it.

        Ask again later: it takes some time until a dead holder is noticed.
        """
        content = json.dumps(who() | {"token": self.token, "nonce": secrets.token_hex(4)}).encode()
        if not self._create(key, 1, content):
            return self._take_over(key, content)
        if self._generations(key)[-1:] != [1]:  # the holder of a higher lease is giving it back right now
            self._path(key, 1).unlink(missing_ok=True)
            return None
        return self._hold(Lease(key, 1, content))

    def release(self, lease: Lease) -> None:
        """Give a lease back, together with the dead ones below it."""
        # From the lowest up: as long as this one exists, nobody else can take a lower one.
        for generation, content in sorted({**lease.before, lease.generation: lease.content}.items()):
            path = self._path(lease.key, generation)
            if _read(path) == content:
                path.unlink(missing_ok=True)
        self._held.pop(lease.key, None)

    def sweep(self) -> None:
        """Remove the leases and pulses that dead processes left."""
        for path in list(self._folder.glob("??/*")):
            if gone(_facts(_read(path))) and (lease := self.take(path.name.rpartition(".")[0])):
                self.release(lease)
        now = self._pulse().stat().st_mtime  # by the file server's clock
        for path in list(pulses(self._folder).iterdir()):
            with contextlib.suppress(OSError):
                if gone(_facts(_read(path))) or now - path.stat().st_mtime > FORGOTTEN:
                    path.unlink()

    def _hold(self, lease: Lease) -> Lease:
        self._held[lease.key] = lease
        self._seen.pop(lease.key, None)
        return lease

    def _take_over(self, key: str, content: bytes) -> Lease | None:
        """The lease above the current holder's, if that holder is dead and nobody else was faster."""
        known = {generation: _read(self._path(key, generation)) for generation in self._generations(key)}
        if not known:
            return None  # given back at this very moment: the next call finds it free
        top = max(known)
        if not self._dead(key, top, known[top]) or not self._create(key, top + 1, content):
            return None
        lease = Lease(key, top + 1, content, known)
        # Since that look, another run may have taken over, finished and given the lease back, and a third begun anew.
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
        """The generations of the leases of `key` that exist, lowest first."""
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
            with contextlib.suppress(OSError):  # the disk is full or the network is down: the next beat may succeed
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
    """This process, as it is named in a lease."""
    return {"host": _host(), "pid": os.getpid()}


def gone(holder: dict[str, Any]) -> bool:
    """Whether a holder is a process of this very machine that has ended. Other machines cannot be asked so fast."""
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
    """This machine since its last start, and the container: process numbers are unique only within one of these."""
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
