"""Cases in a process of their own, so that a crash or a hang is one case's and not the run's."""

import contextlib
import logging
import multiprocessing
import os
import re
import sys
import traceback
import warnings
from collections.abc import Callable, Iterable, Iterator
from functools import lru_cache
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch
from tests.corpus.case import Case, Dimensions, Finding, Result
from tests.corpus.dimensions import backbone_of
from torch import Tensor

from headstart.errors import HeadstartError
from headstart.kinds import Module
from headstart.testing.oracles import by_oracle, computed

__all__ = ["Reader", "findings", "verdict"]

Reader = Callable[[Path], Module]
"""From a folder to a module, or a `HeadstartError`: `load_module`, or what a test puts in its place."""

SECONDS, START_SECONDS, END_SECONDS = 20.0, 120.0, 2.0
"""How long one case may take before it counts as a hang; the first waits for the libraries too; and the end."""

MORE_MEMORY = 3 << 30
"""Bytes that a worker may use beyond what its libraries do."""

NEAR = 3e-4
"""How far two computations of one function may lie apart, of the largest logit."""


def findings(cases: Iterable[Case], *, reader: Reader, marker: Path) -> Iterator[Finding]:
    """Run every case, in order. `marker` is the file that exists when code from a module was run."""
    worker: _Worker | None = None
    try:
        for case in cases:
            worker = worker or _Worker(reader)
            finding = worker.ask(case)
            if finding is None:
                worker.end()
                worker, finding = None, Finding(case, "crashed", "the reader hung, or its process ended")
            if marker.exists():
                marker.unlink()
                finding = Finding(case, "crashed", "code from the module was run")
            yield finding
    finally:
        if worker is not None:
            worker.end()


def verdict(case: Case, reader: Reader) -> tuple[Result, str]:
    """Load one case, and oracle what came of it."""
    backbone = backbone_of(case.dims)
    try:
        module = reader(case.folder)
        module.check(backbone)
        found = computed(module, backbone, dtype=torch.float64)
    except HeadstartError as error:
        return _refusal(str(error), case)
    except Exception:
        return "crashed", traceback.format_exc(limit=-3)
    if case.expectation == "refused":
        return "silent_wrong", "loaded, and should not have been"
    try:
        wanted = _original(case) if case.expectation == "same" else by_oracle(case.folder, case.original, backbone)
    except Exception as error:
        return "silent_wrong", f"loaded, and means nothing to others: {type(error).__name__}: {error}"
    return _compared(found, wanted)


def _refusal(message: str, case: Case) -> tuple[Result, str]:
    if str(case.folder) in message or re.search(r"'[^']+'|\w+\.\w+\.\w+", message):
        return "refused", message
    return "crashed", f"the refusal names nothing: {message}"


def _original(case: Case) -> Tensor:
    return _oracle_once(case.original, case.home) if case.dims == case.home else _oracle_once(case.original, case.dims)


@lru_cache(maxsize=256)
def _oracle_once(original: Path, dims: Dimensions) -> Tensor:
    return by_oracle(original, original, backbone_of(dims))


def _compared(found: Tensor, wanted: Tensor) -> tuple[Result, str]:
    if found.shape != wanted.shape:
        return "silent_wrong", f"logits of shape {tuple(found.shape)}, not {tuple(wanted.shape)}"
    finite = wanted.isfinite()
    if not torch.equal(finite, found.isfinite()):
        return "silent_wrong", "other logits are finite"
    distance = (found - wanted)[finite].abs().max().item() if finite.any() else 0.0
    most = NEAR * max(1.0, wanted[finite].abs().max().item() if finite.any() else 1.0)
    if distance > most:
        return "silent_wrong", f"logits up to {distance:.1e} apart"
    return "loaded_right", ""


class _Worker:
    """A process that answers one case after the other."""

    def __init__(self, reader: Reader) -> None:
        context = _context()
        self._connection, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs, reader), daemon=True)
        self._process.start()
        theirs.close()
        self._seconds = START_SECONDS

    def ask(self, case: Case) -> Finding | None:
        """The finding, or `None` when the process hung or ended."""
        try:
            self._connection.send(case)
            if not self._connection.poll(self._seconds):
                return None
            self._seconds = SECONDS
            result, detail = self._connection.recv()
        except (EOFError, OSError):
            return None
        return Finding(case, result, detail)

    def end(self) -> None:
        """Stop the process: by a word, or else by force."""
        with contextlib.suppress(OSError):
            self._connection.send(None)
            self._process.join(END_SECONDS)
        self._process.kill()
        self._process.join()
        self._connection.close()


@lru_cache(maxsize=1)
def _context() -> Any:
    """Where it can be done a process that has the libraries makes all workers, which then begin in a moment."""
    if sys.platform != "linux":
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])
    return context


def _serve(connection: Connection, reader: Reader) -> None:
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    logging.disable(logging.CRITICAL)
    _limit_memory()
    with (
        contextlib.suppress(EOFError),
        Path(os.devnull).open("w") as nothing,
        contextlib.redirect_stdout(nothing),
        contextlib.redirect_stderr(nothing),
    ):
        while (case := connection.recv()) is not None:
            connection.send(verdict(case, reader))


def _limit_memory() -> None:
    """Let an absurd allocation fail rather than the machine; only where the system tells how much is in use."""
    with contextlib.suppress(ImportError, OSError, ValueError):
        import resource

        used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (used + MORE_MEMORY, used + MORE_MEMORY))
