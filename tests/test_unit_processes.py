"""Real commands on one store: two at the same time, and one that is killed in the middle."""

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from headstart.backbones import Backbone
from headstart.events import Event, Progress
from headstart.kinds import load_module
from headstart.tasks import Task
from headstart.tuning.tune import tune
from headstart.units import Store
from program import QUICK
from small_hub import RECIPE, write_hub, write_task

pytestmark = pytest.mark.slow  # programs, each of which imports torch

STEPS = 300
LONG = [part for name in ("max_steps", "patience") for part in ("--set", f"{name}={STEPS}")]


Started = Callable[..., subprocess.Popen[str]]


@pytest.fixture
def started() -> Iterator[Started]:
    """Runs the program with some words; what still runs after the test is ended."""
    processes: list[subprocess.Popen[str]] = []

    def start(*words: str | Path) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "headstart", *map(str, words)]
        with_one_core = os.environ | {"OMP_NUM_THREADS": "1"}
        pipe = subprocess.PIPE
        processes.append(subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True, env=with_one_core))
        return processes[-1]

    yield start
    for process in processes:
        process.kill()
        process.communicate()


def ended(process: subprocess.Popen[str]) -> Any:
    """What it printed, as JSON."""
    out, err = process.communicate(timeout=600)
    assert process.returncode == 0, err
    return json.loads(out)


@pytest.fixture
def on(tiny_llama: Path, tmp_path: Path) -> list[str | Path]:
    """The options that all commands share."""
    write_task(tmp_path / "reviews")
    return ["--backbone", tiny_llama, "--device", "cpu", "--dtype", "float32", "--store", tmp_path / "store", *QUICK]


def test_two_comparisons_at_the_same_time_compute_each_unit_once(
    started: Started, llama: Backbone, on: list[str | Path], tmp_path: Path
) -> None:
    write_hub(tmp_path / "hub", llama)
    words = ["compare", tmp_path / "reviews", "--hub", tmp_path / "hub", "--seeds", "2", "--shots", "3", *on, "--json"]
    processes = [started(*words, "-o", tmp_path / name) for name in ("one", "two")]
    one, two = [ended(process) for process in processes]
    assert one["comparison"] == two["comparison"], "to the last bit, and with the seconds that each unit took"
    stored = Counter(entry.type for entry in Store(tmp_path / "store").entries())
    computed = Counter(one["units"]["computed"]) + Counter(two["units"]["computed"])
    assert computed == stored
    assert set(stored) == {"score", "merge", "tune", "evaluate"}
    for report in (one, two):
        counts = report["units"]
        assert Counter(counts["computed"]) + Counter(counts["reused"]) == stored


def test_a_tuning_that_is_killed_continues(
    started: Started, llama: Backbone, on: list[str | Path], tmp_path: Path
) -> None:
    store = tmp_path / "store"
    words = ["tune", tmp_path / "reviews", "-o", tmp_path / "out", *on, *LONG, "--set", "warmup_steps=0"]
    process = started(*words)
    wait_for_checkpoint(process, store)
    process.send_signal(signal.SIGKILL)
    process.communicate(timeout=60)
    assert list(Store(store).entries()) == []
    assert not (tmp_path / "out").exists()
    task, recipe = Task.load(tmp_path / "reviews"), RECIPE.change(max_steps=STEPS, patience=STEPS, warmup_steps=0)
    steps: list[int] = []

    def listen(event: Event) -> None:
        if isinstance(event, Progress):
            steps.append(event.done)

    found = tune(task, llama, recipe=recipe, store=store, name="out", progress=listen)
    assert 2 < steps[0] < STEPS, "it did not begin anew"
    assert steps[-1] == STEPS
    assert list((store / "work").iterdir()) == []
    whole = tune(task, llama, recipe=recipe, store=False, name="out")
    assert found.module.digest() == whole.module.digest()
    assert found.module.card == whole.module.card
    assert repr((found.curve, found.best, found.notes)) == repr((whole.curve, whole.best, whole.notes))
    # The command finds what it was killed over.
    again = ended(started(*words, "--json"))
    assert again["units"] == {"computed": {}, "reused": {"tune": 1}}
    assert load_module(tmp_path / "out").digest() == whole.module.digest()


def test_a_comparison_that_is_killed_while_it_tunes_continues(
    started: Started, llama: Backbone, on: list[str | Path], tmp_path: Path
) -> None:
    write_hub(tmp_path / "hub", llama)
    words = [
        "compare", tmp_path / "reviews", "--hub", tmp_path / "hub", "--seeds", "1", "--shots", "3", *on,
        *LONG, "-o", tmp_path / "report", "--json",
    ]  # fmt: skip
    process = started(*words)
    wait_for_checkpoint(process, tmp_path / "store")
    process.send_signal(signal.SIGKILL)
    process.communicate(timeout=60)
    kept = Counter(entry.type for entry in Store(tmp_path / "store").entries())
    assert set(kept) == {"score", "merge"} | {"evaluate"} & set(kept)
    report = ended(started(*words))
    assert Counter(report["units"]["reused"]) == kept
    assert report["units"]["computed"]["tune"] == 5
    assert list((tmp_path / "store" / "work").iterdir()) == []


def wait_for_checkpoint(process: subprocess.Popen[str], store: Path) -> None:
    """Wait until a tuning was evaluated at some step after the first."""
    deadline = time.monotonic() + 300
    seen: set[float] = set()
    while len(seen) < 4:
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < deadline
        seen |= {path.stat().st_mtime for path in store.glob("work/*/checkpoint")}
        time.sleep(0.005)
