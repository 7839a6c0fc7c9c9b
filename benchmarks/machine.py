"""What a benchmark ran on: the kind of machine, and the matrix products it reaches."""

import gc
import os
import platform
import statistics
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil  # type: ignore[import-untyped]
import torch

__all__ = ["cpu_model", "machine_kind", "matrix_ceiling", "peak_memory", "synchronized"]

REPEATS = 9


def cpu_model() -> str:
    """The processor's name as the system states it."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())


def machine_kind() -> dict[str, str | int]:
    """The facts that a number has to be read with; nothing that tells one machine of a kind from another."""
    kind: dict[str, str | int] = {
        "cpu": cpu_model(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1,
        "threads": torch.get_num_threads(),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "torch": torch.__version__,
    }
    if torch.cuda.is_available():
        kind["gpu"] = torch.cuda.get_device_name()
    return kind


def synchronized(device: torch.device) -> float:
    """Seconds on a clock, read when the device has done what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def matrix_ceiling(dtype: torch.dtype, device: torch.device) -> float:
    """GFLOP/s of a large square matrix product, the median of repeats; no pass through a model can exceed it."""
    size = 8192 if device.type == "cuda" else 2048
    left = torch.randn(size, size, device=device).to(dtype)
    right = torch.randn(size, size, device=device).to(dtype)
    multiply: Callable[[], object] = lambda: left @ right  # noqa: E731 - one line that is timed below
    for _ in range(2):
        multiply()
    seconds = []
    for _ in range(REPEATS):
        started = synchronized(device)
        multiply()
        seconds.append(synchronized(device) - started)
    return 2 * size**3 / statistics.median(seconds) / 1e9


@contextmanager
def peak_memory(device: torch.device) -> Iterator[Callable[[], int]]:
    """Bytes beyond those held at the start: resident memory sampled every 5 ms, or what CUDA's allocator counted."""
    gc.collect()
    if device.type == "cuda":
        before = torch.cuda.memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        yield lambda: torch.cuda.max_memory_allocated(device) - before
        return
    process = psutil.Process()
    base = most = process.memory_info().rss
    stop = threading.Event()

    def sample() -> None:
        nonlocal most
        while not stop.wait(0.005):
            most = max(most, process.memory_info().rss)

    sampler = threading.Thread(target=sample, daemon=True)
    sampler.start()
    try:
        yield lambda: most - base
    finally:
        stop.set()
        sampler.join()
