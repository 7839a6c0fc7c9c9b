"""Several processes on one hub, some of them killed: nothing is lost, doubled or half there."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from handmade import write_module
from headstart.hub import Hub

ADD = """
import sys, pathlib
from headstart.hub import Hub, adding
adding.BATCH = 4
print(sum(a.card is not None for a in Hub.create(pathlib.Path(sys.argv[1])).add_all(map(pathlib.Path, sys.argv[2:]))))
"""
REMOVE = """
import sys
from headstart.hub import Hub
Hub.open(sys.argv[1]).remove(*sys.argv[2:])
"""
CHECK = """
import sys
from headstart.hub import Hub
for _ in range(4):
    problems = Hub.open(sys.argv[1]).check()
    assert not problems, problems
    for ref in Hub.open(sys.argv[1]).refs():
        ref.path
"""


def start(code: str, *arguments: object) -> subprocess.Popen[str]:
    words = [sys.executable, "-c", code, *map(str, arguments)]
    return subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def assert_ended_well(process: subprocess.Popen[str]) -> str:
    out, err = process.communicate()
    assert process.returncode == 0, err
    return out


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    room = tmp_path_factory.mktemp("made")
    return [write_module(room / f"m{seed:02}", seed=seed) for seed in range(24)]


def leftovers(hub: Path) -> list[str]:
    return [path.name for path in hub.iterdir() if path.name.endswith((".staging", ".removed"))]


def kill_at(process: subprocess.Popen[str], delay: float) -> None:
    time.sleep(delay)
    if process.poll() is None:
        os.kill(process.pid, signal.SIGKILL)
    process.communicate()


def test_adders_at_once_and_one_that_is_killed(tmp_path: Path, made: list[Path]) -> None:
    hub = tmp_path / "hub"
    began = time.monotonic()
    assert assert_ended_well(start(ADD, hub, *made[:4])) == "4\n"
    usual = time.monotonic() - began
    shuffled = random.Random(0)
    killed = []
    for turn in range(4):
        order = shuffled.sample(made, len(made))
        killed.append(start(ADD, hub, *order))
        kill_at(killed[-1], usual * (0.5 + turn / 4))
        opened = Hub.open(hub)
        assert opened.problems() == []
    adders = [start(ADD, hub, *order) for order in (made, made[::-1])]
    assert [assert_ended_well(adder) for adder in adders] == ["24\n", "24\n"]
    opened = Hub.open(hub)
    assert opened.names() == [path.name for path in made]
    assert opened.check() == []
    assert leftovers(hub) == []


def test_a_removal_that_is_killed_goes_on(tmp_path: Path, made: list[Path]) -> None:
    names = [path.name for path in made[:20]]
    for turn in range(5):
        hub = Hub.create(tmp_path / f"hub{turn}")
        hub.add_all(made)
        began = time.monotonic()
        process = start(REMOVE, hub.path, *names)
        while (
            process.poll() is None and len(list(hub.path.glob("m*"))) > 24 - 5 * turn and time.monotonic() < began + 60
        ):
            time.sleep(0.0005)
        kill_at(process, 0)
        opened = Hub.open(hub.path)
        assert opened.problems() == [], "what was removed is not missing"
        assert set(opened.names()) == {path.name for path in hub.path.glob("m*")}
        if leftovers(hub.path):
            opened.remove(*names)
        assert Hub.open(hub.path).names() == [path.name for path in made[20:]] or turn == 0
        assert Hub.open(hub.path).check() == []
        assert leftovers(hub.path) == []


@pytest.mark.parametrize("killed_after", ["moved", "forgotten"])
def test_the_same_removal_after_a_kill(tmp_path: Path, made: list[Path], killed_after: str) -> None:
    hub = Hub.create(tmp_path / "hub")
    hub.add_all(made[:4])
    stop = "headstart.hub.removing._finish" if killed_after == "moved" else "headstart.hub.removing.sweep_removals"
    code = REMOVE.replace(
        "import sys\n",
        "import os, signal, sys, headstart.hub.removing\n"
        f"{stop} = lambda *a, **k: os.kill(os.getpid(), signal.SIGKILL)\n",
        1,
    )
    process = start(code, hub.path, "m00", "m01")
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    if killed_after == "moved":
        assert_ended_well(start(REMOVE, hub.path, "m00", "m01"))
    opened = Hub.open(hub.path)
    assert opened.names() == ["m02", "m03"]
    assert opened.check() == []
    assert leftovers(hub.path) == []


def test_checking_while_others_remove_and_add(tmp_path: Path, made: list[Path]) -> None:
    hub = Hub.create(tmp_path / "hub")
    hub.add_all(made)
    checking = start(CHECK, hub.path)
    for first in range(0, 20, 5):
        names = [path.name for path in made[first : first + 5]]
        assert_ended_well(start(REMOVE, hub.path, *names))
    assert_ended_well(checking)
    assert Hub.open(hub.path).names() == [path.name for path in made[20:]]


def test_the_log_of_a_kill_between_folder_and_row(tmp_path: Path, made: list[Path]) -> None:
    """A list of a removal that cannot be read stands in nobody's way."""
    hub = Hub.create(tmp_path / "hub")
    hub.add_all(made[:2])
    odd = hub.path / ".modules.00000000-1-abcdefgh.removed"
    odd.mkdir()
    for content in ("{", "[1, null]", json.dumps({"a": 1})):
        (odd / ".names.json").write_text(content)
        assert Hub.open(hub.path).names() == ["m00", "m01"]
