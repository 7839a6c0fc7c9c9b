"""What the program does with an output that takes nothing, an encoding without letters, and Ctrl-C at once."""

import json
import os
import signal
import subprocess
import sys
import time
import tomllib
from pathlib import Path

import pytest

from headstart import extras
from headstart.errors import SettingError

PROGRAM = [sys.executable, "-m", "headstart"]


def test_a_full_device_ends_with_one_line() -> None:
    with Path("/dev/full").open("w") as full:
        for words in (["list"], ["list", "--json"], ["--help"]):
            done = subprocess.run([*PROGRAM, *words], stdout=full, stderr=subprocess.PIPE, text=True, check=False)
            assert done.returncode == 2, done.stderr
            assert done.stderr.startswith("error: cannot print the result: ")
            assert done.stderr.count("\n") == 1


def test_an_encoding_without_our_letters() -> None:
    for words in (["list", "rules"], ["list", "rules", "--json"]):
        done = subprocess.run(
            [*PROGRAM, *words], capture_output=True, check=False, env={**os.environ, "PYTHONIOENCODING": "ascii"}
        )
        assert done.returncode == 0, done.stderr
        assert done.stdout.isascii()
    rows = json.loads(done.stdout)["rules"]
    assert "τ" in rows[0]["what it is"] or "softmax" in rows[0]["what it is"]


@pytest.mark.parametrize("wait", [0.1, 0.2, 0.4])
def test_ctrl_c_at_once(wait: float) -> None:
    # The interpreter itself needs a moment; what comes after it is ours.
    begin = "import sys; sys.argv = ['headstart', 'list']; from headstart.cli import main"
    code = f"{begin}; print('', flush=True); main()"
    running = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert running.stdout is not None
    running.stdout.readline()
    time.sleep(wait / 10)
    running.send_signal(signal.SIGINT)
    _, said = running.communicate(timeout=60)
    assert "Traceback" not in said
    assert running.returncode in (0, 130)
    assert running.returncode == 0 or said.startswith("stopped; nothing was half-written")


def test_extras_are_those_of_the_package() -> None:
    project = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    optional = project["optional-dependencies"]
    assert set(extras.EXTRAS.values()) == optional.keys() - {"all"}
    assert optional["all"] == [f"headstart[{','.join(name for name in optional if name != 'all')}]"]


def test_a_missing_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(extras, "find_spec", lambda _: None)
    message = r"reading x\.gguf needs the package gguf, which is not installed; install .* 'headstart\[gguf\]'"
    with pytest.raises(SettingError, match=message):
        extras.require("gguf", for_what="reading x.gguf")
