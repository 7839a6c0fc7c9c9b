"""Ctrl-C in the middle of a command: what is kept, and what the same command does then."""

import os
import re
import signal
from pathlib import Path
from typing import Any

import pytest

from headstart import atomic
from headstart.backbones import Backbone
from headstart.units import Store
from program import NAMES, Ended, Run
from test_cli_mistakes import assert_whole, command_line

pytest_plugins = ["cli_helper"]


# ---- Ctrl-C


def press_ctrl_c(patch: pytest.MonkeyPatch, owner: Any, name: str, *, at: int) -> None:
    """Let the `at`-th call of `owner.name` be interrupted."""
    original, calls = getattr(owner, name), iter(range(1, 1_000_000))

    def call(*args: Any, **settings: Any) -> Any:
        if next(calls) == at:
            raise KeyboardInterrupt
        return original(*args, **settings)

    patch.setattr(owner, name, call)


def assert_stopped(ended: Ended, kept: str) -> None:
    """What is kept is said only if it is: the program ends with two lines."""
    lines = ended.err.strip().splitlines()
    assert (ended.code, ended.out, lines[-1]) == (130, "", "stopped; nothing was half-written")
    assert re.search(kept, lines[-2]), ended.err


NOTHING = "^nothing was finished yet, so the same command starts over$"
SOMETHING = "; the same command computes only the rest$"


@pytest.mark.parametrize(
    ("name", "at", "kept"),
    [
        ("tune", 1, NOTHING),
        ("tune", 4, f"^tuning out on reviews, seed 0 continues from step 2{SOMETHING}"),
        ("compare", 3, SOMETHING),
        ("compare", 12, SOMETHING),
    ],
)
def test_ctrl_c_while_tuning(
    name: str, at: int, kept: str, run: Run, here: dict[str, list[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from headstart.tuning.run import Run as Tuning

    with monkeypatch.context() as patch:
        press_ctrl_c(patch, Tuning, "took_step", at=at)
        assert_stopped(run(*command_line(name, here, tmp_path / "out")), kept)
    assert list(tmp_path.iterdir()) == []
    assert_whole(name, tmp_path / "out", run, here)


def test_an_interrupted_tuning_ends_as_if_nothing_had_been(
    run: Run, here: dict[str, list[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from headstart.tuning.run import Run as Tuning

    apart = ["--store", tmp_path / "store"]
    whole = run(*command_line("tune", here, tmp_path / "whole"), *apart, "--json", "--name", "n").data
    with monkeypatch.context() as patch:
        press_ctrl_c(patch, Tuning, "took_step", at=4)
        run(*command_line("tune", here, tmp_path / "out"), "--json", "--name", "n")
    assert len(list(Store.default().folder.glob("work/*/checkpoint"))) == 1
    assert run(*command_line("tune", here, tmp_path / "out"), "--json", "--name", "n").data == whole


@pytest.mark.parametrize("name", ["ensemble", "rank"])
def test_ctrl_c_while_scoring(
    name: str, run: Run, here: dict[str, list[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    press_ctrl_c(monkeypatch, Backbone, "target_logits", at=1)
    assert_stopped(run(*command_line(name, here, tmp_path / "out")), NOTHING)
    assert list(tmp_path.iterdir()) == []


def test_ctrl_c_while_saving(
    run: Run, here: dict[str, list[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        press_ctrl_c(patch, atomic.os, "fsync", at=2)
        assert_stopped(run(*command_line("ensemble", here, tmp_path / "out")), "")
    assert list(tmp_path.iterdir()) == []
    assert_whole("ensemble", tmp_path / "out", run, here)


def test_a_request_to_end_is_as_ctrl_c(
    run: Run, here: dict[str, list[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = Backbone.target_logits

    def call(*args: Any, **settings: Any) -> Any:
        os.kill(os.getpid(), signal.SIGTERM)
        return original(*args, **settings)

    before = signal.getsignal(signal.SIGTERM)
    with monkeypatch.context() as patch:
        patch.setattr(Backbone, "target_logits", call)
        ended = run(*command_line("ensemble", here, tmp_path / "out"))
    assert ended.code == 128 + signal.SIGTERM
    assert ended.err.strip().splitlines()[-1] == "stopped; nothing was half-written"
    assert list(tmp_path.iterdir()) == []
    assert signal.getsignal(signal.SIGTERM) == before
    assert_whole("ensemble", tmp_path / "out", run, here)


def test_ctrl_c_while_adding(run: Run, room: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    command = ["hub", "add", tmp_path / "hub", *(room / "made" / name for name in NAMES)]
    with monkeypatch.context() as patch:
        press_ctrl_c(patch, atomic.os, "fsync", at=9)
        assert_stopped(run(*command), "^what was added stays, and the same command adds the rest$")
    inside = [path.name for path in (tmp_path / "hub").iterdir() if not path.name.startswith(".catalogue")]
    assert inside == [], "they enter together, and were being written"
    again = run(*command, "--json")
    assert [row["result"] for row in again.data] == ["accepted"] * 4
    assert again.code == 0
    again = run(*command, "--json")
    assert [row["result"] for row in again.data] == ["already there"] * 4
    assert again.code == 0, "what is there already is no mistake"
    assert run("hub", "check", tmp_path / "hub").code == 0
