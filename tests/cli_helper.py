"""Fixtures of the tests that run the program: how it is run, and what it is run on."""

import sys
from pathlib import Path
from typing import Any

import pytest

from headstart import cli
from headstart.backbones import Backbone
from headstart.hub import Hub
from program import Ended, Run
from small_hub import write_modules, write_task


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Run:
    """The program, in this process: importing torch anew for each command would take minutes."""
    monkeypatch.setenv("COLUMNS", "240")
    monkeypatch.setenv("GOMP_SPINCOUNT", "20000")
    monkeypatch.setenv("PYDANTIC_DISABLE_PLUGINS", "__all__")

    def call(*arguments: Any) -> Ended:
        monkeypatch.setattr(sys, "argv", ["headstart", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        printed = capsys.readouterr()
        return Ended(int(ended.value.code or 0), printed.out, printed.err)

    return call


@pytest.fixture(scope="module")
def room(tmp_path_factory: pytest.TempPathFactory, llama: Backbone) -> Path:
    """A folder with modules in made/, a hub and a task; tests read it only."""
    room = tmp_path_factory.mktemp("room")
    write_task(room / "reviews")
    Hub.create(room / "hub").add_all(write_modules(room / "made", llama))
    return room


@pytest.fixture
def here(room: Path, tiny_llama: Path) -> dict[str, list[str]]:
    """The options that most commands share."""
    on = ["--backbone", str(tiny_llama), "--device", "cpu", "--dtype", "float32"]
    return {"task": [str(room / "reviews")], "hub": ["--hub", str(room / "hub")], "on": on}
